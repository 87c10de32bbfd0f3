"""The mixing of space-time mixing attention: which channels come from which frame, and bringing them there.

channels of a mixed key, w = 1, rho = 1/2:      |  t + 1  |  t - 1  |         t         |
                                                0       D/4       D/2                   D
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xvit.utils.errors import XViTError


class Share(NamedTuple):
    """Channels start .. stop - 1 are read from frame t + offset."""

    offset: int
    start: int
    stop: int


def temporal_offsets(window: int, *, boundary_only: bool = False, causal: bool = False) -> tuple[int, ...]:
    """The neighbours' offsets in frames, in the order of their channels: latest frame first, 0 left out.

    Args:
        window: half-width w, in frames; 0 gives no neighbours.
        boundary_only: -w and w alone.
        causal: past frames alone.
    """
    offsets = [offset for offset in range(window, -window - 1, -1) if offset != 0]
    if boundary_only:
        offsets = [offset for offset in offsets if abs(offset) == window]
    if causal:
        offsets = [offset for offset in offsets if offset < 0]
    return tuple(offsets)


def channel_shares(channels: int, fraction: float, offsets: tuple[int, ...]) -> tuple[Share, ...]:
    """Split the first `fraction` of the channels evenly over the offsets (paper, Eq. 8), whole channels each.

    Args:
        channels: number of channels to share out: h d for flat grouping, d for per_head.
        fraction: rho, share of the channels that come from other frames; 0 gives no shares.
        offsets: as `temporal_offsets` gives them.

    Raises:
        XViTError: an offset would get less than one channel.
    """
    if not offsets or fraction == 0:
        return ()
    size = int(fraction * channels / len(offsets) + 1e-6)  # so that 0.3 of 10 channels is 3, not 2
    if size == 0:
        raise XViTError(
            f"mixed_fraction={fraction}: gives less than one of {channels} channels to each of {len(offsets)} "
            f"offsets; expected 0 or at least {len(offsets) / channels:.3g}"
        )
    return tuple(Share(offset, i * size, (i + 1) * size) for i, offset in enumerate(offsets))


def by_segment(x: Tensor, segment_frames: int) -> Tensor:
    """A view of x (B, T, ...) in which every segment is a clip of its own, (B T / segment_frames, segment_frames, ...).

    Raises:
        XViTError: the segments do not fill the clip.
    """
    T = x.shape[1]
    if not segment_frames:
        return x
    if T % segment_frames:
        raise XViTError(f"{T} frames: expected a multiple of segment_frames={segment_frames}")
    return x.unflatten(1, (T // segment_frames, segment_frames)).flatten(0, 1)


def mix(x: Tensor, shares: tuple[Share, ...], *, replicate: bool = False) -> Tensor:
    """Mix the channels of neighbouring frames (paper, Eq. 9): each share is read at t + offset, the rest at t.

    Args:
        x: (B, T, ..., channels).
        shares: adjacent shares of the channels from 0 on.
        replicate: what frames outside the clip give: the nearest frame, else zeros.

    Returns:
        A tensor of the shape of x.
    """
    parts = [shift(x[..., share.start : share.stop], share.offset, replicate=replicate) for share in shares]
    return torch.cat([*parts, x[..., shares[-1].stop :]], dim=-1)


def shift(x: Tensor, offset: int, *, replicate: bool = False) -> Tensor:
    """x (B, T, ...) read at frame t + offset."""
    T = x.shape[1]
    steps = min(abs(offset), T)
    edge = x[:, -1:] if offset > 0 else x[:, :1]
    outside = edge.expand(-1, steps, *x.shape[2:]) if replicate else x.new_zeros(x.shape[0], steps, *x.shape[2:])
    return torch.cat([x[:, steps:], outside] if offset > 0 else [outside, x[:, : T - steps]], dim=1)


def shift_in_place(x: Tensor, offset: int, *, replicate: bool = False) -> None:
    """`shift` that overwrites x (B, T, ...).

    On a CPU frame after frame, each read before it is overwritten: half of the time, as no second tensor has to be
    brought in from memory. On other devices T small copies cost more than a large one.
    """
    if x.device.type != "cpu":
        x.copy_(shift(x, offset, replicate=replicate))
        return
    frames, last = x.unbind(1), x.shape[1] - 1
    for t in range(last + 1) if offset > 0 else range(last, -1, -1):
        source = min(max(t + offset, 0), last)
        if source != t + offset and not replicate:
            frames[t].zero_()
        elif source != t:
            frames[t].copy_(frames[source])


class MixInPlace(torch.autograd.Function):
    """`mix` of the keys and values inside the projections' own output, moving only the shares.

    Out of place, mixed keys and values would live beside the projections they come from until the backward pass: an
    eighth more activations, and a copy of the channels that stay where they are. Autograd's own in-place assignment
    would copy the whole gradient once a share. Mixing is linear, so its backward pass is its transpose.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, mixed: slice, groups: int, shares: tuple[Share, ...], replicate: bool) -> Tensor:
        """Mix qkv (B, T, N, 3 h d) and return it.

        Args:
            qkv: the output of the projections; overwritten.
            mixed: which of query, key and value (0, 1, 2).
            groups: in how many equal groups of channels the shares lie: 1 for flat, h for per_head.
            shares: as `channel_shares` gives them.
            replicate: as in `mix`.
        """
        ctx.settings = (mixed, groups, shares, replicate)
        ctx.mark_dirty(qkv)
        for share, part in _parts(qkv, mixed, groups, shares):
            shift_in_place(part, share.offset, replicate=replicate)
        return qkv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mixed, groups, shares, replicate = ctx.settings
        grad = grad.clone(memory_format=torch.contiguous_format)
        for share, part in _parts(grad, mixed, groups, shares):
            steps = min(abs(share.offset), part.shape[1])
            # A replicated edge frame was read by all the frames that reached over it.
            edge, beyond = (-1, part[:, -steps:]) if share.offset > 0 else (0, part[:, :steps])
            more = beyond.sum(dim=1) if replicate else None
            shift_in_place(part, -share.offset)
            if more is not None:
                part[:, edge] += more
        return grad, None, None, None, None


def _parts(qkv: Tensor, mixed: slice, groups: int, shares: tuple[Share, ...]) -> list[tuple[Share, Tensor]]:
    """Views of the channels that move, (B, T, N, keys and values, groups, channels)."""
    channels = qkv.shape[-1] // 3 // groups
    grouped = qkv.view(*qkv.shape[:-1], 3, groups, channels)[..., mixed, :, :]
    return [(share, grouped[..., share.start : share.stop]) for share in shares]
