"""Reference implementation of space-time attention, written as loops from the paper's equations."""

import numpy as np
import torch
from torch import Tensor


def mix_channels(
    x: Tensor, *, window: int, mix_ratio: float, boundary_only: bool, causal: bool, temporal_padding: str
) -> Tensor:
    """Eq. 9 of the paper, one frame and channel at a time. x: (T, N, C); the slices cover all C channels."""
    T, N, C = x.shape
    offsets = [o for o in range(-window, window + 1) if o != 0]
    if causal:
        offsets = [o for o in offsets if o < 0]
    if boundary_only:
        offsets = [o for o in offsets if abs(o) == window]
    offsets = sorted(offsets, reverse=True)
    channels_per_offset = int(np.floor(round(mix_ratio * C / len(offsets), 6))) if offsets else 0
    out = torch.zeros_like(x)
    for t in range(T):
        for c in range(C):
            slice_index = c // channels_per_offset if channels_per_offset else len(offsets)
            source = t + (offsets[slice_index] if slice_index < len(offsets) else 0)
            if temporal_padding == "replicate":
                source = min(max(source, 0), T - 1)
            if 0 <= source < T:
                for n in range(N):
                    out[t, n, c] = x[source, n, c]
    return out


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v for one head, one query at a time. q: (M, d), k and v: (M', d)."""
    rows = []
    for query in q:
        scores = torch.stack([query @ key for key in k]) / q.shape[-1] ** 0.5
        weights = torch.exp(scores - scores.max())
        rows.append((weights / weights.sum()) @ v)
    return torch.stack(rows)


def split_heads(x: Tensor, num_heads: int) -> list[Tensor]:
    """Split the last dimension into heads."""
    return list(x.chunk(num_heads, dim=-1))
