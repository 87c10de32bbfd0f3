"""Ways to compute mixing on an accelerator, weighed against each other: a part of gpu.py.

    kernel              the channels of all slices are moved in place by one kernel (the default on CUDA)
    in place            the same by operations of torch, slice by slice
    pure function       mixed keys and values are new tensors (what torch.compile gets)
    heads by frame      no copy of keys and values: each group of heads attends over views that start a frame later or
                        earlier; heads whose frame is outside the clip give zeros
    shifted projections no copy either: the channels of a neighbouring frame are projected from the shifted tokens

The last two are for whole heads and zero padding only. They are compared here, not used by the library.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from xvit.models.attention import AttentionInputs, MixingAttention, SpatialAttention
from xvit.models.mixing import MixingPattern


class InPlaceMixing(MixingAttention):
    """Without the kernel, which does not know patterns that bring their own `split`."""

    def project_qkv(self, x: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
        self.pattern = OwnPattern(**vars(self.pattern))
        return super().project_qkv(x, in_place=in_place)


class OwnPattern(MixingPattern):
    """The same pattern, by a `split` of its own."""

    def split(self, x: Tensor) -> list[Tensor]:
        return super().split(x)


class PureMixing(MixingAttention):
    """Keys and values are mixed out of place."""

    mixes_in_place = False


class UnmixedReader:
    """Gives the layer keys and values that are not mixed."""

    def read(self, layer: SpatialAttention, x: Tensor, rope: Tensor | None) -> AttentionInputs:
        """See `AttentionReader`."""
        return layer.project(x, rope)


class HeadsByFrame(MixingAttention):
    """Each group of heads reads its frame through a view."""

    reader = UnmixedReader()

    def attend(self, inputs: AttentionInputs, bias: Tensor | None = None) -> Tensor:
        (B, T), d = inputs.q.shape[:2], inputs.q.shape[-1]
        q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))  # (B T, h, N, d)
        groups, first = [], 0
        for part in self.pattern.slices:
            heads, frames = slice(first, part.stop // d), B * T - abs(part.offset)
            to, of = max(-part.offset, 0), max(part.offset, 0)  # of all clips at once
            near = F.scaled_dot_product_attention(
                q[to : to + frames, heads], k[of : of + frames, heads], v[of : of + frames, heads]
            )
            out = F.pad(near, (0, 0, 0, 0, 0, 0, to, of)).unflatten(0, (B, T))
            outside = out[:, T - of :] if of else out[:, :to]
            outside.zero_()
            groups.append(out.flatten(0, 1))
            first = heads.stop
        groups.append(F.scaled_dot_product_attention(q[:, first:], k[:, first:], v[:, first:]))
        return torch.cat(groups, dim=1).transpose(1, 2).unflatten(0, (B, T))


class ShiftedProjections(MixingAttention):
    """Channels of neighbouring frames are projected from the shifted tokens. Inference only."""

    def project_qkv(self, x: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
        B, T, N, D = x.shape
        rows = x.view(B * T * N, D)
        qkv = rows.new_empty(B * T * N, 3 * D)
        weight, bias = self.qkv.weight.to(x.dtype), self.qkv.bias.to(x.dtype)
        torch.addmm(bias[:D], rows, weight[:D].t(), out=qkv[:, :D])
        for offset, start, stop in (*self.pattern.slices, (0, self.pattern.slices[-1].stop, D)):
            shift = abs(offset) * N
            to = slice(max(-offset, 0) * N, B * T * N - max(offset, 0) * N)
            of = slice(max(offset, 0) * N, B * T * N - max(-offset, 0) * N)
            for kind in (1, 2):
                channels = slice(kind * D + start, kind * D + stop)
                torch.addmm(bias[channels], rows[of], weight[channels].t(), out=qkv[to, channels])
                if shift:
                    clips = qkv.view(B, T, N, 3 * D)[..., channels]
                    (clips[:, T - offset :] if offset > 0 else clips[:, :-offset]).zero_()
        q, k, v = qkv.view(B, T, N, 3, self.num_heads, -1).unbind(-3)
        return q, k, v


VARIANTS: dict[str, type[MixingAttention]] = {
    "kernel": MixingAttention,
    "in place": InPlaceMixing,
    "pure function": PureMixing,
    "heads by frame": HeadsByFrame,
    "shifted projections": ShiftedProjections,
}
INFERENCE_ONLY = {"shifted projections"}
