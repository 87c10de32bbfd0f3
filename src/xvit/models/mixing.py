"""Mixing: which frame each channel of a key or value is read from (paper, section 3.2, Eqs. 8 and 9).

    B clips, T frames, N tokens per frame, h heads of d channels, D = h d

Attention in frame t is softmax(q(t) k~(t)' / sqrt(d)) v~(t) over its N tokens (Eq. 9). Channel c of the mixed key k~ is

    k~(t)[c] = k(t + offset(c))[c]         and of v~ likewise; offset(c) is 0 for the channels that stay.

A `MixingPattern` says which slice of the channels has which offset (Eq. 8):

    channels of a mixed key, w = 1, rho = 1/2:      |  t + 1  |  t - 1  |         t         |
                                                    0       D/4       D/2                   D

These are all D channels ("flat" grouping, as in the released code): the first heads see the neighbours, the last ones
their own frame only. With `per_head`, each head's d channels are divided in the same way, as in the paper's equations.

Three forms compute the same numbers:

    mix                  a clip, as a pure function: for torch.compile, export, and if the unmixed tensor is needed too
    mix with `history`   a stream: the channels that later frames need are kept
    mix_in_place         a clip, inside the output of the projections: faster, and no second copy of keys and values;
                         on a GPU by `xvit.models.mixing_kernel`

All of them ask the pattern what moves (`split`: one view per slice, none overlapping) and, out of place, how to put it
back (`join`). A new pattern overrides these two, and `xvit.models.backbone.build_pattern` builds it from the config.
tests/models/test_mixing.py compares the three forms of such a pattern.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xvit.utils.errors import XViTError


class ChannelSlice(NamedTuple):
    """Channels start .. stop - 1 of a mixed key or value of frame t are read from frame t + offset (Eq. 8)."""

    offset: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class MixingPattern:
    """What is mixed, and which channels come from which frame.

    Args:
        slices: adjacent slices of the channels, from channel 0 on; none for no mixing. See `channel_slices`.
        inputs: what is mixed: keys_values, keys, values, or x (the tokens before the projections).
        per_head: the slices are of the d channels of each head, instead of all h d channels.
        replicate: frames outside the clip are copies of the nearest one, instead of zeros.
        segment_frames: mix within segments of this many frames; 0 for the whole clip.
    """

    slices: tuple[ChannelSlice, ...] = ()
    inputs: Literal["keys_values", "keys", "values", "x"] = "keys_values"
    per_head: bool = False
    replicate: bool = False
    segment_frames: int = 0

    @property
    def mixes_keys(self) -> bool:
        """Whether keys are mixed after the projections."""
        return bool(self.slices) and self.inputs in ("keys_values", "keys")

    @property
    def mixes_values(self) -> bool:
        """Whether values are mixed after the projections."""
        return bool(self.slices) and self.inputs in ("keys_values", "values")

    @property
    def mixes_tokens(self) -> bool:
        """Whether the tokens are mixed before the projections."""
        return bool(self.slices) and self.inputs == "x"

    @property
    def lookahead(self) -> int:
        """How many later frames a frame needs."""
        return max([0, *(part.offset for part in self.slices)])

    def split(self, x: Tensor) -> list[Tensor]:
        """What each slice moves.

        Args:
            x: (B, T, N, ..., h, d), with adjacent h and d in memory.

        Returns:
            For each slice a view (B, T, N, ..., channels); with `per_head` (B, T, N, ..., h, channels).
        """
        channels = x if self.per_head else x.flatten(-2)
        return [channels[..., part.start : part.stop] for part in self.slices]

    def join(self, moved: list[Tensor], x: Tensor) -> Tensor:
        """A copy of x (B, T, N, ..., h, d) in which each slice is replaced by the moved one."""
        channels = x if self.per_head else x.flatten(-2)
        return torch.cat([*moved, channels[..., self.slices[-1].stop :]], dim=-1).view(x.shape)

    def mix(
        self, x: Tensor, *, num_frames: int | None = None, history: MutableMapping[int, Tensor] | None = None
    ) -> Tensor:
        """Read the channels of each slice at t + offset, the rest at t (paper, Eq. 9).

        Args:
            x: consecutive frames (B, T, N, h, d).
            num_frames: of a stream: mix the first ones only; those behind them are only read. All by default.
            history: of a stream: for each slice that reads earlier frames, by its index, its channels of the frames
                before x. Updated to the frames before x[:, num_frames]; empty at first.

        Returns:
            (B, num_frames, N, h, d).
        """
        if not self.slices:
            return x[:, :num_frames]
        clips = split_segments(x, self.segment_frames)  # a stream has none
        num_frames = clips.shape[1] if num_frames is None else num_frames
        moved = []
        for index, (part, channels) in enumerate(zip(self.slices, self.split(clips), strict=True)):
            past = None if history is None else history.get(index)
            moved.append(shift(channels, part.offset, num_frames, past=past, replicate=self.replicate))
            if history is not None and part.offset < 0:
                history[index] = _last_frames(channels[:, :num_frames], -part.offset, past, replicate=self.replicate)
        return self.join(moved, clips[:, :num_frames]).view(x.shape[0], -1, *x.shape[2:])

    def mix_in_place(self, qkv: Tensor, shape: tuple[int, int, int], num_heads: int) -> Tensor:
        """`mix` of the keys and values inside the output of the projections; differentiable.

        Args:
            qkv: (B T N, 3 h d), overwritten. It should not be a view: autograd would copy the gradient of its base.
            shape: B, T, N.
            num_heads: h.
        """
        mixed: Tensor = _MixInPlace.apply(qkv, self, shape, num_heads)
        return mixed

    def moving_views(self, qkv: Tensor, shape: tuple[int, int, int], num_heads: int) -> list[tuple[int, Tensor]]:
        """The offset of each slice, and a view of the keys and values that it moves in qkv (B T N, 3 h d)."""
        heads = split_segments(
            qkv.view(*shape, 3, num_heads, -1), self.segment_frames
        )  # (B, T, N, 3, h, d), segments as clips
        mixed = slice(1 if self.mixes_keys else 2, 3 if self.mixes_values else 2)
        return [
            (part.offset, channels)
            for part, channels in zip(self.slices, self.split(heads[:, :, :, mixed]), strict=True)
        ]


def temporal_offsets(window: int, *, boundary_only: bool = False, causal: bool = False) -> tuple[int, ...]:
    """The offsets of the neighbouring frames in the order of their channels: latest frame first, 0 left out.

    Args:
        window: half-width w, in frames; 0 gives no neighbours.
        boundary_only: -w and w only.
        causal: past frames only.
    """
    offsets = [offset for offset in range(window, -window - 1, -1) if offset != 0]
    if boundary_only:
        offsets = [offset for offset in offsets if abs(offset) == window]
    if causal:
        offsets = [offset for offset in offsets if offset < 0]
    return tuple(offsets)


def channel_slices(channels: int, mix_ratio: float, offsets: tuple[int, ...]) -> tuple[ChannelSlice, ...]:
    """Divide the first `mix_ratio` of the channels evenly among the offsets, in whole channels (paper, Eq. 8).

    Args:
        channels: number of channels to divide: h d for flat grouping, d for per_head.
        mix_ratio: rho, fraction of the channels that come from other frames; 0 gives no slices.
        offsets: as `temporal_offsets` gives them.

    Raises:
        XViTError: an offset would get less than one channel.
    """
    if not offsets or mix_ratio == 0:
        return ()
    size = int(mix_ratio * channels / len(offsets) + 1e-6)  # so that 0.58 of 100 channels is 58, not 57
    if size == 0:
        raise XViTError(
            f"mix_ratio={mix_ratio}: gives less than one of {channels} channels to each of {len(offsets)} offsets; "
            f"expected 0 or at least {len(offsets) / channels:.3g}"
        )
    return tuple(ChannelSlice(offset, i * size, (i + 1) * size) for i, offset in enumerate(offsets))


def split_segments(x: Tensor, segment_frames: int) -> Tensor:
    """A view of x (B, T, ...) in which each segment is a clip of its own, (B T / segment_frames, segment_frames, ...).

    Raises:
        XViTError: T is not a multiple of segment_frames.
    """
    T = x.shape[1]
    if not segment_frames:
        return x
    if T % segment_frames:
        raise XViTError(f"{T} frames: expected a multiple of segment_frames={segment_frames}")
    return x.unflatten(1, (T // segment_frames, segment_frames)).flatten(0, 1)


def shift(x: Tensor, offset: int, num_frames: int, *, past: Tensor | None = None, replicate: bool) -> Tensor:
    """Frames offset .. offset + num_frames - 1 of x (B, T, ...).

    Args:
        x: consecutive frames.
        offset: negative for earlier frames.
        num_frames: to return, at most T.
        past: the -offset frames before x, if they are known.
        replicate: what stands for unknown frames: the nearest frame of x, else zeros.
    """
    if offset < 0:
        before = _padding(x[:, :1], -offset, replicate=replicate) if past is None else past
        return torch.cat([before, x[:, :num_frames]], dim=1)[:, :num_frames]
    after = _padding(x[:, -1:], offset, replicate=replicate)
    return torch.cat([x, after], dim=1)[:, offset : offset + num_frames]


def _padding(edge: Tensor, steps: int, *, replicate: bool) -> Tensor:
    """What stands for `steps` frames beyond the frame `edge` (B, 1, ...)."""
    return (edge if replicate else torch.zeros_like(edge)).expand(-1, steps, *edge.shape[2:])


def _last_frames(x: Tensor, steps: int, past: Tensor | None, *, replicate: bool) -> Tensor:
    """The last `steps` frames up to the end of x (B, T, ...), those before x included."""
    before = _padding(x[:, :1], steps, replicate=replicate) if past is None else past
    return torch.cat([before, x], dim=1)[:, -steps:].clone()  # a copy, or the whole concatenation would stay in memory


class _MixInPlace(torch.autograd.Function):
    """`MixingPattern.mix_in_place`, and its gradient.

    The pure form keeps mixed keys and values beside the projections they come from until the backward pass, and copies
    the channels that stay where they are. Autograd's own in-place assignment would copy the whole gradient once per
    slice. Mixing is linear, so its backward pass is its transpose.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, pattern: MixingPattern, shape: tuple[int, int, int], num_heads: int) -> Tensor:
        ctx.pattern, ctx.shape, ctx.num_heads = pattern, shape, num_heads
        ctx.mark_dirty(qkv)
        if _shift_by_kernel(qkv, pattern, shape, num_heads):
            return qkv
        for offset, channels in pattern.moving_views(qkv, shape, num_heads):
            _shift_in_place(channels, offset, replicate=pattern.replicate)
        return qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pattern: MixingPattern = ctx.pattern
        grad = grad.clone(memory_format=torch.contiguous_format)
        if _shift_by_kernel(grad, pattern, ctx.shape, ctx.num_heads, backward=True):
            return grad, None, None, None
        for offset, channels in pattern.moving_views(grad, ctx.shape, ctx.num_heads):
            steps = min(abs(offset), channels.shape[1])
            if not pattern.replicate:
                _shift_in_place(channels, -offset, replicate=False)
                continue
            edge, beyond = (-1, channels[:, -steps:]) if offset > 0 else (0, channels[:, :steps])
            edge_grad = beyond.sum(dim=1)  # all the frames that reached beyond the edge had read it
            _shift_in_place(channels, -offset, replicate=False)
            channels[:, edge] += edge_grad
        return grad, None, None, None


def _shift_by_kernel(
    qkv: Tensor, pattern: MixingPattern, shape: tuple[int, int, int], num_heads: int, *, backward: bool = False
) -> bool:
    """Move all slices at once in qkv (B T N, 3 h d), or return False if there is no kernel for this pattern or device.

    Edges that are replicated, and patterns with a `split` of their own, are left to the operations of torch.
    """
    B, T, N = shape
    frames, sizes = pattern.segment_frames or T, {part.stop - part.start for part in pattern.slices}
    if not qkv.is_cuda or pattern.replicate or type(pattern).split is not MixingPattern.split or len(sizes) != 1:
        return False
    kernel = _find_kernel()
    if kernel is None or T % frames or frames > kernel.MAX_FRAMES:
        return False
    D = qkv.shape[1] // 3
    kernel.shift_in_place(
        qkv,
        tuple(part.offset for part in pattern.slices),
        sizes.pop(),
        (B * T // frames, frames, N),
        kinds=range(1 if pattern.mixes_keys else 2, 3 if pattern.mixes_values else 2),
        width=D // num_heads if pattern.per_head else D,
        backward=backward,
    )
    return True


@cache
def _find_kernel() -> ModuleType | None:
    """`xvit.models.mixing_kernel`; None where Triton is not installed."""
    if find_spec("triton") is None:
        return None
    from xvit.models import mixing_kernel

    return mixing_kernel


def _shift_in_place(x: Tensor, offset: int, *, replicate: bool) -> None:
    """Overwrite each frame t of x (B, T, ...) with frame t + offset.

    On the CPU frame by frame, each read before it is overwritten: half the time, as no second tensor has to be brought
    in from memory. On other devices T small copies cost more than one large copy.
    """
    if x.device.type != "cpu":
        x.copy_(shift(x, offset, x.shape[1], replicate=replicate))
        return
    frames, last = x.unbind(1), x.shape[1] - 1
    for t in range(last + 1) if offset > 0 else range(last, -1, -1):
        source = min(max(t + offset, 0), last)
        if source != t + offset and not replicate:
            frames[t].zero_()
        elif source != t:
            frames[t].copy_(frames[source])
