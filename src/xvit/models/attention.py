"""The attention schemes over the tokens of a clip, each a subclass of timm's `Attention`.

    B clips, T frames (or tubelets), N tokens per frame (patches and prefix tokens), D channels, h heads of d channels,
    R summary tokens per frame

timm builds its image model with one of these classes as `attn_layer`. Its blocks accept tokens of shape (B, T, N, D)
as they are, so a scheme sees the whole clip, and weights, their names, qk-norm, LayerScale and drop path stay timm's.
Each attention layer of timm's `Eva` models is turned into a class of `EVA_SCHEMES` after it is built.

What the query q at (t, s) attends to (#), frames from left to right, tokens from top to bottom. m is a mixed token: one
key and one value, each channel of which is read from frame t - w, ..., or t + w.

    spatial      local, w=1     joint         divided                   mixing, w=1
    . . # . .    . # # # .      # # # # #     . . . . .     . . # . .   . . m . .
    . . q . .    . # q # .      # # q # #     # # q # #  +  . . q . .   . . q . .
    . . # . .    . # # # .      # # # # #     . . . . .     . . # . .   . . m . .
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from timm.layers import Attention, apply_rot_embed_cat
from torch import Tensor, nn

from xvit.models.mixing import MixingPattern
from xvit.utils.errors import XViTError


class AttentionInputs(NamedTuple):
    """What attention is computed from."""

    q: Tensor  # (B, T, N, h, d)
    k: Tensor  # (B, T, N, h, d)
    v: Tensor  # (B, T, N, h, d)
    summary_k: Tensor  # (B, T' R, h, d), T' = T; in a stream T' counts the earlier frames too
    summary_v: Tensor  # (B, T' R, h, d)


class AttentionReader(Protocol):
    """How an attention layer gets its inputs: `ClipReader`, or for streams `xvit.models.stream_blocks.StreamReader`."""

    def read(self, layer: "SpatialAttention", x: Tensor, rope: Tensor | None) -> AttentionInputs:
        """The inputs of `layer` for normalised tokens x (B, T, N, D) and rotary positions, if the model has them."""


class ClipReader:
    """Inputs for a whole clip: the projections of its tokens, mixed as the layer's pattern says."""

    def read(self, layer: "SpatialAttention", x: Tensor, rope: Tensor | None) -> AttentionInputs:
        """See `AttentionReader`."""
        pattern = layer.pattern
        if pattern.mixes_tokens:
            x = pattern.mix(x.unflatten(-1, (layer.num_heads, -1))).flatten(-2)
        inputs = layer.project(x, rope, in_place=layer.mixes_in_place)
        if layer.mixes_in_place:
            return inputs
        return inputs._replace(
            k=pattern.mix(inputs.k) if pattern.mixes_keys else inputs.k,
            v=pattern.mix(inputs.v) if pattern.mixes_values else inputs.v,
        )


class SpatialAttention(Attention):
    """Every frame attends within itself: timm's own attention, for T frames at once. The base of the other schemes:
    its `pattern` has no slices, so nothing is mixed; layers of `MixingAttention` are given one that has.

    `summary_tokens` R > 0 appends R tokens of every frame to the keys and values of all frames (paper, section 3.3):
    averages over an r x r grid of the patches, R = r^2. Mean and projection commute, so their keys and values are
    averages of the frame's own, before any qk-norm, which then normalises them too. They have no rotary position.
    """

    reader: AttentionReader = ClipReader()
    pattern = MixingPattern()
    summary_tokens: int = 0
    causal_summaries: bool = False  # attend to the summaries of a frame itself and of earlier ones only
    summary_window: int = 0  # in a causal model: of how many frames, itself included
    num_prefix_tokens: int = 0
    grid: tuple[int, int] | None = None  # patches in height and width; summary_tokens > 1 needs it
    rotate_half: bool  # timm sets it in the layers that get rotary positions

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        rope: Tensor | None = None,
        *,
        class_token_only: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            x: tokens (B, T, N, D), already normalised by the block.
            attn_mask: added to the scores of the keys at each location, (B, N), the same in all frames: the
                logarithms of the sizes of merged tokens. timm's blocks pass it on.
            is_causal: not supported; timm's blocks pass it on.
            rope: rotary positions of a frame's patches, (P, 2 d) for P patches, the same for all frames; None without.
            class_token_only: compute the result of each frame's first token only; it attends to all tokens.

        Returns:
            The projected result, (B, T, N, D), or (B, T, 1, D) of the first tokens only.

        Raises:
            XViTError: a causal mask was asked for.
        """
        if is_causal:
            raise XViTError("is_causal=True is not supported; use create_model(..., causal=True) for causal mixing")
        inputs = self.reader.read(self, x, rope)
        if class_token_only:
            inputs, x = inputs._replace(q=inputs.q[:, :, :1]), x[:, :, :1]
        out = self.norm(self.attend(inputs, attn_mask).flatten(-2))  # (B, T, N or 1, h d)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        projected: Tensor = self.proj_drop(self.proj(out))
        return projected

    def project(self, x: Tensor, rope: Tensor | None = None, *, in_place: bool = False) -> AttentionInputs:
        """Queries, keys, values and summaries of tokens x (B, T, N, D), unmixed unless `in_place`.

        Keys are normalised and rotated in their own frame, before any mixing: each mixed channel is then a channel of a
        key that the image model knows, whatever its neighbours are, and a stream can keep it.
        """
        q, k, v = self.project_qkv(x, in_place=in_place)
        summary_k, summary_v = self.k_norm(self.summarise(k)), self.summarise(v)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = self.rotate(q, rope), self.rotate(k, rope)
        return AttentionInputs(q, k, v, summary_k, summary_v)

    def project_qkv(self, x: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The projections of x (B, T, N, D), each (B, T, N, h, d); keys and values are mixed if `in_place`."""
        B, T, N, _ = x.shape
        qkv = self.qkv(x.flatten(0, 2))  # (B T N, 3 h d)
        if in_place:
            qkv = self.pattern.mix_in_place(qkv, (B, T, N), self.num_heads)
        q, k, v = qkv.view(B, T, N, 3, self.num_heads, self.head_dim).unbind(-3)
        return q, k, v

    @property
    def mixes_in_place(self) -> bool:
        """Whether keys and values are mixed inside the output of the projections: faster and smaller, the same numbers.

        Not if that output is still needed unmixed: keys are normalised and rotated before they mix, and summaries
        average unmixed ones. Nor under torch.compile and torch.export, which do better with a pure function.
        """
        return (
            (self.pattern.mixes_keys or self.pattern.mixes_values)
            and isinstance(self.k_norm, nn.Identity)
            and not self.summary_tokens
            and not torch.compiler.is_compiling()
        )

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Rotate the channels of queries or keys (B, T, N, h, d) by their patches' positions; prefix tokens stay."""
        prefix, patches = x[:, :, : self.num_prefix_tokens], x[:, :, self.num_prefix_tokens :]
        rotated = apply_rot_embed_cat(patches.transpose(2, 3), rope, half=self.rotate_half).transpose(2, 3).type_as(x)
        return torch.cat([prefix, rotated], dim=2)

    def attend(self, inputs: AttentionInputs, bias: Tensor | None = None) -> Tensor:
        """Attend within each frame, and to the summaries of all frames.

        Args:
            inputs: q may be of M <= N tokens per frame.
            bias: added to the scores, (B, N). Only merged tokens have one: without summaries, not in local or joint.

        Returns:
            (B, T, M, h, d).
        """
        q, k, v, summary_k, summary_v = inputs
        T = q.shape[1]
        mask = None if bias is None else bias.repeat_interleave(T, dim=0)[:, None, None]  # (B T, 1, 1, N)
        if self.summary_tokens:
            mask = self.summary_mask(k, summary_k) if self.causal_summaries else None
            k = torch.cat([k, summary_k.unsqueeze(1).expand(-1, T, -1, -1, -1)], dim=2)  # (B, T, N + T' R, h, d)
            v = torch.cat([v, summary_v.unsqueeze(1).expand(-1, T, -1, -1, -1)], dim=2)
        # Frames join the batch, as attention over 5 dimensions cannot be exported to ONNX.
        out = self.scaled_dot_product(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask)
        return out.unflatten(0, q.shape[:2])

    def summary_mask(self, k: Tensor, summary_k: Tensor) -> Tensor:
        """Which keys the queries of each frame attend to in a causal model, (B T, 1, 1, N + T' R): all of their own
        frame, and the summaries of that frame and earlier ones, `summary_window` in all.
        """
        B, T, N = k.shape[:3]
        R = self.summary_tokens
        summary_frame = (
            torch.arange(summary_k.shape[1], device=k.device) // R
        )  # of each summary token, from 0 to T' - 1
        query_frame = torch.arange(T, device=k.device)[:, None] + summary_k.shape[1] // R - T  # the last T of those
        visible = (summary_frame <= query_frame) & (summary_frame > query_frame - self.summary_window)  # (T, T' R)
        return torch.cat([visible.new_ones(T, N), visible], dim=1).repeat(B, 1)[:, None, None]

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention of q (B', M, h, d) over k and v (B', M', h, d), giving (B', M, h, d).

        `mask` (B', 1, 1, M') is True for keys that are attended to, or a number that is added to their scores.

        timm's flag `fused_attn` chooses between torch's fused kernels and the plain formula, whose weights can be seen.
        """
        dropout = self.attn_drop.p if self.training else 0.0
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B', h, M, d) and (B', h, M', d)
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2)
        scores = q * self.scale @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = self.attn_drop(scores.softmax(dim=-1))  # (B', h, M, M'); a hook on attn_drop sees them
        out: Tensor = (weights @ v).transpose(1, 2)
        return out

    def summarise(self, x: Tensor) -> Tensor:
        """Average keys or values (B, T, N, h, d) over an r x r grid of each frame's patches, giving (B, T R, h, d)."""
        B, T, _, h, d = x.shape
        if self.summary_tokens == 0:
            return x.new_empty(B, 0, h, d)
        patches = x[:, :, self.num_prefix_tokens :]
        if self.summary_tokens == 1:
            return patches.mean(dim=2)
        assert self.grid is not None
        maps = patches.reshape(B * T, *self.grid, h * d).permute(0, 3, 1, 2)  # (B T, h d, rows, columns)
        maps = F.adaptive_avg_pool2d(maps, round(self.summary_tokens**0.5))
        return maps.flatten(2).transpose(1, 2).reshape(B, T * self.summary_tokens, h, d)


class MixingAttention(SpatialAttention):
    """Space-time mixing attention (paper, section 3.2, Eq. 9): spatial attention over keys and values whose channels
    come from the frames t - w .. t + w, as `pattern` says. `ClipReader` mixes them, without a multiplication."""


class LocalAttention(SpatialAttention):
    """Exact attention over all tokens of the frames t - w .. t + w: what mixing approximates (paper, Eq. 6).
    O(T w N^2)."""

    window: int = 1

    def attend(self, inputs: AttentionInputs, bias: Tensor | None = None) -> Tensor:
        T, w = inputs.q.shape[1], self.window
        outputs = []
        for t in range(T):
            near = slice(max(0, t - w), t + w + 1)  # frames outside the clip are left out, not zeros
            k, v = inputs.k[:, near].flatten(1, 2), inputs.v[:, near].flatten(1, 2)
            outputs.append(self.scaled_dot_product(inputs.q[:, t], k, v))
        return torch.stack(outputs, dim=1)


class JointAttention(SpatialAttention):
    """Every token attends to all T N tokens of the clip: O(T^2 N^2)."""

    def attend(self, inputs: AttentionInputs, bias: Tensor | None = None) -> Tensor:
        q, k, v, _, _ = inputs
        out = self.scaled_dot_product(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2))
        return out.unflatten(1, q.shape[1:3])


class DividedAttention(SpatialAttention):
    """Attention over time at each location, then within the frame (TimeSformer's): O(T^2 N + T N^2).

    Temporal attention adds its result to the tokens that spatial attention then reads. `temporal_proj` starts at zero,
    so an untrained block is the image model's.
    """

    def add_temporal_layers(self) -> None:
        """Add the layers that the image model does not have."""
        device, dtype, dim = self.proj.weight.device, self.proj.weight.dtype, self.proj.out_features
        # As in the image model, whose qkv bias may be stored in other ways (`EvaAttention`).
        self.temporal = Attention(dim, self.num_heads, qkv_bias=self.proj.bias is not None, device=device, dtype=dtype)
        self.temporal_proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        nn.init.trunc_normal_(self.temporal.qkv.weight, std=0.02)
        nn.init.trunc_normal_(self.temporal.proj.weight, std=0.02)
        for bias in (self.temporal.qkv.bias, self.temporal.proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        nn.init.zeros_(self.temporal_proj.weight)
        nn.init.zeros_(self.temporal_proj.bias)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        rope: Tensor | None = None,
        *,
        class_token_only: bool = False,
    ) -> Tensor:
        B, _, N, _ = x.shape
        temporal = x.transpose(1, 2).flatten(0, 1)  # (B N, T, D)
        temporal = self.temporal_proj(self.temporal(temporal))
        temporal = temporal.unflatten(0, (B, N)).transpose(1, 2)  # (B, T, N, D)
        out = super().forward(x + temporal, attn_mask, is_causal, rope, class_token_only=class_token_only)
        return temporal[:, :, : out.shape[2]] + out


SCHEMES: dict[str, type[SpatialAttention]] = {
    "mixing": MixingAttention,
    "spatial": SpatialAttention,
    "local": LocalAttention,
    "joint": JointAttention,
    "divided": DividedAttention,
}


class EvaProjections:
    """The projections of timm's `EvaAttention` and `AttentionRope`: fused or separate, with their own biases, several
    query heads per key head. As the first base class of a scheme it makes the scheme serve these models."""

    # Keys must be rotated before they mix: rotation combines pairs of channels, which could come from two frames.
    mixes_in_place = False

    qkv: nn.Linear | None
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    k_bias: Tensor
    v_bias: Tensor
    num_heads: int
    head_dim: int

    def project_qkv(self, x: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The projections of x (B, T, N, D), each (B, T, N, h, d); never in place."""
        if self.qkv is None:
            parts = [layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj)]
        else:
            qkv = self.qkv(x)  # the module, not its weight: PEFT replaces it by another
            q_bias: Tensor | None = getattr(self, "q_bias", None)  # EvaAttention has it
            if q_bias is not None:
                qkv = qkv + torch.cat([q_bias, self.k_bias, self.v_bias])
            parts = list(qkv.chunk(3, dim=-1))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        heads_per_key = self.num_heads // k.shape[-2]
        return q, k.repeat_interleave(heads_per_key, dim=-2), v.repeat_interleave(heads_per_key, dim=-2)


EVA_SCHEMES: dict[str, type[SpatialAttention]] = {
    name: type(f"Eva{scheme.__name__}", (EvaProjections, scheme), {"__module__": __name__})
    for name, scheme in SCHEMES.items()
}
globals().update({scheme.__name__: scheme for scheme in EVA_SCHEMES.values()})  # pickle looks for them here
