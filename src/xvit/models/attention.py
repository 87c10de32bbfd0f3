"""The attention schemes over the tokens of a clip, each a subclass of timm's `Attention`.

    B clips, T frames, N tokens a frame (patches and prefix tokens), D channels, h heads of d channels, R summary tokens

timm builds its image model with one of these classes as `attn_layer`. Its blocks take tokens of shape (B, T, N, D) as
they are, so a scheme sees the whole clip, and weights, their names, qk-norm, LayerScale and drop path stay timm's. The
attention layers of timm's `Eva` models become one of `EVA_SCHEMES` after they are built.

What the query at (t, s) attends to, frames from left to right, tokens from top to bottom:

    spatial      local, w=1     joint         divided                   mixing, w=1
    . . # . .    . # # # .      # # # # #     . . . . .     . . # . .   . . m . .    one key and one value a location,
    . . q . .    . # q # .      # # q # #     # # q # #  +  . . q . .   . . q . .    each channel of it read from frame
    . . # . .    . # # # .      # # # # #     . . . . .     . . # . .   . . m . .    t - w, ..., or t + w
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, apply_rot_embed_cat
from torch import Tensor, nn

from xvit.models.mixing import MixInPlace, Share, by_segment, channel_shares, mix, temporal_offsets
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.models.streaming import LayerMemory


class SpatialAttention(Attention):
    """Every frame attends within itself: timm's own attention, for T frames at once. The base of the other schemes.

    `summary_tokens` R > 0 appends R tokens of every frame to the keys and values of all frames (paper, section 3.3):
    averages over an r x r grid of the patches, R = r^2. Mean and projection commute, so their keys and values are
    averages of the frame's own keys and values.
    """

    summary_tokens: int = 0
    causal: bool = False  # summaries of this frame and those before alone, summary_frames in all
    summary_frames: int = 0
    memory: "LayerMemory | None" = None  # of a stream, while it runs the model
    num_prefix_tokens: int = 0
    grid: tuple[int, int] | None = None  # patches in height and width; summary_tokens > 1 needs it

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
            attn_mask: added to the scores of the keys at each location, (B, N), the same in all frames: what merged
                tokens weigh. timm's blocks hand it over.
            is_causal: not supported; timm's blocks hand it over.
            rope: rotary positions of a frame's patches, for models that have them; the same for all frames.
            class_token_only: of each frame, let its first token alone attend, to all tokens.

        Returns:
            The projected result, (B, T, N, D), or (B, T, 1, D) of the first tokens alone.

        Raises:
            XViTError: a causal mask was asked for.
        """
        if is_causal:
            raise XViTError("is_causal: the attention over clips takes no causal mask; see direction='causal'")
        q, k, v, summary_k, summary_v = self.read(x, rope) if self.memory is None else self.memory.read(self, x, rope)
        if class_token_only:
            q, x = q[:, :, :1], x[:, :, :1]
        out = self.attend(q, k, v, summary_k, summary_v, attn_mask).flatten(-2)  # (B, T, N, h d)
        out = self.norm(out)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        out = self.proj_drop(self.proj(out))
        return out

    def read(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, ...]:
        """What `attend` takes, of tokens x (B, T, N, D)."""
        q, k, v = self.project(x)
        summary_k, summary_v = self.k_norm(self.summarise(k)), self.summarise(v)
        # Keys are normalised and rotated in their own frame, before any mixing: each mixed channel is then a channel of
        # a key that the image model knows, whatever its neighbours are, and a stream can keep it.
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = self.rotate(q, rope), self.rotate(k, rope)
        return q, k, v, summary_k, summary_v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, T, N, D), each (B, T, N, h, d)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        """Turn the channels of queries or keys (B, T, N, h, d) by the places of their patches; prefix tokens stay."""
        prefix, patches = x[:, :, : self.num_prefix_tokens], x[:, :, self.num_prefix_tokens :]
        half = bool(getattr(self, "rotate_half", False))
        turned = apply_rot_embed_cat(patches.transpose(2, 3), rope, half=half).transpose(2, 3).type_as(x)
        return torch.cat([prefix, turned], dim=2)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, summary_k: Tensor, summary_v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Attend within each frame, and to the summaries of all.

        Args:
            q: (B, T, M, h, d), of all N tokens of a frame or of the first.
            k, v: (B, T, N, h, d).
            summary_k, summary_v: (B, T R, h, d); in a stream with those of frames before.
            bias: added to the scores, (B, N); not with summaries.

        Returns:
            (B, T, M, h, d).
        """
        frames = q.shape[1]
        mask = None if bias is None else bias.repeat_interleave(frames, dim=0)[:, None, None]  # (B T, 1, 1, N)
        if self.summary_tokens:
            mask = self.summary_mask(k, summary_k) if self.causal else None
            k = torch.cat([k, summary_k.unsqueeze(1).expand(-1, frames, -1, -1, -1)], dim=2)  # (B, T, N + T R, h, d)
            v = torch.cat([v, summary_v.unsqueeze(1).expand(-1, frames, -1, -1, -1)], dim=2)
        out = self.scaled_dot_product(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask)
        return out.unflatten(0, q.shape[:2])

    def summary_mask(self, k: Tensor, summary_k: Tensor) -> Tensor:
        """Which keys the queries of each frame see in a causal model, (B T, 1, 1, N + T R): those of their own frame,
        and the summaries of it and the frames before, `summary_frames` in all.
        """
        B, frames, N = k.shape[:3]
        R = self.summary_tokens
        owner = torch.arange(summary_k.shape[1], device=k.device) // R  # frame of each summary token
        own = torch.arange(frames, device=k.device)[:, None] + summary_k.shape[1] // R - frames  # frame of each query
        seen = (owner <= own) & (owner > own - self.summary_frames)  # (T, T R)
        return torch.cat([seen.new_ones(frames, N), seen], dim=1).repeat(B, 1)[:, None, None]

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax attention of q (B', M, h, d) over k and v (B', M', h, d), giving (B', M, h, d).

        `mask` (B', 1, 1, M') is True where a key is seen, or a number that is added to its scores; None for neither.

        timm's flag `fused_attn` chooses between torch's fused kernels and the plain formula, whose weights can be seen.
        """
        dropout = self.attn_drop.p if self.training else 0.0
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B', h, M, d): 5-D does not export to ONNX
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2)
        scores = q * self.scale @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(dim=-1)  # (B', h, M, M'), for a hook on attn_drop
        return (self.attn_drop(weights) @ v).transpose(1, 2)

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
    come from the frames t - w .. t + w. Mixing moves memory and multiplies nothing."""

    shares: tuple[Share, ...] = ()
    mixed: str = "keys_values"
    per_head: bool = False
    replicate: bool = False
    segment_frames: int = 0

    def configure(
        self,
        *,
        window: int,
        fraction: float,
        mixed: str,
        boundary_only: bool,
        direction: str,
        grouping: str,
        edges: str,
        segment_frames: int = 0,
    ) -> None:
        """Set what is mixed. Without this, or with window = 0 or fraction = 0, the scheme is spatial attention.

        Args:
            window: half-width w, in frames.
            fraction: rho, share of the channels that come from other frames.
            mixed: keys_values, keys, values, or x (the token before the projections).
            boundary_only: take only the outermost offsets.
            direction: centered or causal.
            grouping: flat or per_head.
            edges: zero or replicate.
            segment_frames: mix within segments of this many frames; 0 for the whole clip.

        Raises:
            XViTError: there are too few channels for the shares.
        """
        self.per_head = grouping == "per_head"
        self.replicate = edges == "replicate"
        self.mixed = mixed
        self.segment_frames = segment_frames
        offsets = temporal_offsets(window, boundary_only=boundary_only, causal=direction == "causal")
        channels = self.head_dim if self.per_head else self.num_heads * self.head_dim
        self.shares = channel_shares(channels, fraction, offsets)

    def read(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.memory is not None:  # which mixes what it keeps
            return super().read(x, rope)
        if self.mixed == "x":
            x = self.mix(x.unflatten(-1, (self.num_heads, -1))).flatten(-2)
        q, k, v, summary_k, summary_v = super().read(x, rope)
        if not self.mixes_in_place:
            k = self.mix(k) if self.mixed in ("keys_values", "keys") else k
            v = self.mix(v) if self.mixed in ("keys_values", "values") else v
        return q, k, v, summary_k, summary_v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.mixes_in_place:
            return super().project(x)
        mixed = {"keys_values": slice(1, 3), "keys": slice(1, 2), "values": slice(2, 3)}[self.mixed]
        groups = self.num_heads if self.per_head else 1
        qkv = by_segment(self.qkv(x), self.segment_frames)
        qkv = MixInPlace.apply(qkv, mixed, groups, self.shares, self.replicate).view(*x.shape[:3], -1)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v

    @property
    def mixes_in_place(self) -> bool:
        """Whether keys and values mix inside the projections' output: faster and smaller, the same numbers.

        Not where that output is still needed unmixed (norms of the keys, summaries), nor under torch.compile and
        torch.export, which do better with a pure function.
        """
        return (
            bool(self.shares)
            and self.mixed != "x"
            and isinstance(self.k_norm, nn.Identity)
            and not self.summary_tokens
            and self.memory is None
            and not torch.compiler.is_compiling()
        )

    def mix(self, x: Tensor) -> Tensor:
        """Give each channel of (B, T, N, h, d) the frame of its share."""
        if not self.shares:
            return x
        channels = by_segment(x if self.per_head else x.flatten(-2), self.segment_frames)
        return mix(channels, self.shares, replicate=self.replicate).view(x.shape)


class LocalAttention(SpatialAttention):
    """Exact attention over all tokens of the frames t - w .. t + w: what mixing approximates (paper, Eq. 6).
    O(T w S^2)."""

    window: int = 1

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, summary_k: Tensor, summary_v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        T, w = q.shape[1], self.window
        frames = []
        for t in range(T):
            near = slice(max(0, t - w), t + w + 1)  # frames outside the clip do not exist, they are not zeros
            frames.append(self.scaled_dot_product(q[:, t], k[:, near].flatten(1, 2), v[:, near].flatten(1, 2)))
        return torch.stack(frames, dim=1)


class JointAttention(SpatialAttention):
    """Every token attends to all T N tokens of the clip: O(T^2 S^2)."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, summary_k: Tensor, summary_v: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        out = self.scaled_dot_product(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2))
        return out.unflatten(1, q.shape[1:3])


class DividedAttention(SpatialAttention):
    """Attention over time at each location, then within the frame (TimeSformer's): O(T^2 S + T S^2).

    Temporal attention adds its result to the tokens that spatial attention then reads. Its last layer starts at zero,
    so an untrained block is the image model's.
    """

    def configure(self) -> None:
        """Add the temporal layers."""
        factory: dict[str, Any] = {"device": self.proj.weight.device, "dtype": self.proj.weight.dtype}
        dim = self.proj.out_features
        self.temporal = Attention(dim, self.num_heads, qkv_bias=self.proj.bias is not None, **factory)
        self.temporal_proj = nn.Linear(dim, dim, **factory)
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
        through_time = x.transpose(1, 2).flatten(0, 1)  # (B N, T, D)
        through_time = self.temporal_proj(self.temporal(through_time))
        through_time = through_time.unflatten(0, (B, N)).transpose(1, 2)  # (B, T, N, D)
        out = super().forward(x + through_time, attn_mask, is_causal, rope, class_token_only=class_token_only)
        return through_time[:, :, : out.shape[2]] + out


SCHEMES: dict[str, type[SpatialAttention]] = {
    "mixing": MixingAttention,
    "spatial": SpatialAttention,
    "local": LocalAttention,
    "joint": JointAttention,
    "divided": DividedAttention,
}


class EvaProjections:
    """The projections of timm's `EvaAttention` and `AttentionRope`: fused or apart, with biases of their own, several
    heads to a key. Set before a scheme, whose other parts serve these models as they are."""

    mixes_in_place = False  # keys are rotated first, which would mix the channels of a pair that two frames share

    qkv: nn.Linear | None
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    num_heads: int
    head_dim: int

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (B, T, N, D), each (B, T, N, h, d)."""
        if self.qkv is None:
            q, k, v = (layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
        else:
            biases: list[Any] = [getattr(self, f"{name}_bias", None) for name in "qkv"]  # of EvaAttention
            qkv = self.qkv(x)  # the module, not its weight: PEFT puts another in its place
            q, k, v = (qkv if biases[0] is None else qkv + torch.cat(biases)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        sharing = self.num_heads // k.shape[-2]  # heads to a key
        return q, k.repeat_interleave(sharing, dim=-2), v.repeat_interleave(sharing, dim=-2)


EVA_SCHEMES: dict[str, type[SpatialAttention]] = {
    name: type(f"Eva{scheme.__name__}", (EvaProjections, scheme), {"__module__": __name__})
    for name, scheme in SCHEMES.items()
}
globals().update({scheme.__name__: scheme for scheme in EVA_SCHEMES.values()})  # pickle looks for them here
