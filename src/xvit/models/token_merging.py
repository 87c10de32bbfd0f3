"""Token merging (Bolya et al., ICLR 2023) for clips: after each layer but the last, r patches per frame merge
with similar ones.

    B clips, T frames, N tokens per frame, P of them patches, D channels

A mixed key takes its channels from the same location of several frames. If each frame merged the patches that are
similar in that frame, location s would be one part of the image in one frame and another part in the next, and mixing
would combine unrelated parts. So the pairs are chosen once per clip, by similarity averaged over its frames:

    frame 1   a b c d      similarity of a and b, ... averaged      frame 1   ab  c  d      location s is the same
    frame 2   a b c d   ─▶ over the frames: a and b are similar  ─▶ frame 2   ab  c  d      patches in all frames
    frame 3   a b c d                                               frame 3   ab  c  d

Attention weighs a merged token by its size: the logarithm of the number of its patches is added to its scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patches_after_merging(patches: int, r: int, layers: int) -> int:
    """Patches per frame that remain after `merge_similar_tokens` of r pairs in each of that many layers."""
    for _ in range(layers):
        patches -= min(r, patches // 2)
    return patches


def merge_similar_tokens(x: Tensor, sizes: Tensor | None, r: int, *, num_prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """Merge the r most similar pairs of patches, the same ones in all frames of a clip.

    Every even patch is paired with the most similar odd one; the r best of these pairs merge.

    Args:
        x: tokens (B, T, N, D), prefix tokens first; those do not merge.
        sizes: how many patches each location stands for, (B, N); None for one each.
        r: pairs to merge; at most half of the patches.
        num_prefix_tokens: among the N tokens.

    Returns:
        The tokens, each the average of its patches, (B, T, N - r, D), and their sizes, (B, N - r).
    """
    if sizes is None:
        sizes = x.new_ones(x.shape[0], x.shape[2])
    if x.shape[2] - num_prefix_tokens < 2:
        return x, sizes
    prefix, patches = x[:, :, :num_prefix_tokens], x[:, :, num_prefix_tokens:]
    prefix_sizes, sizes = sizes[:, :num_prefix_tokens], sizes[:, num_prefix_tokens:]
    directions = F.normalize(patches.detach(), dim=-1)
    similarity = (directions[:, :, ::2] @ directions[:, :, 1::2].transpose(-2, -1)).mean(
        dim=1
    )  # (B, ceil(P / 2), floor(P / 2))
    best, partner = similarity.max(dim=-1)  # of each even patch, (B, ceil(P / 2))
    order = best.argsort(dim=-1, descending=True)
    r = min(r, similarity.shape[2])
    merging, remaining = order[:, :r], order[:, r:].sort(dim=-1).values  # the remaining ones keep their order
    partner = partner.gather(-1, merging)
    weights = sizes[:, None, :, None]
    merged_sizes = _sum_pairs(weights, merging, partner, remaining)  # (B, 1, P - r, 1)
    merged = _sum_pairs(patches * weights, merging, partner, remaining) / merged_sizes
    return torch.cat([prefix, merged], dim=2), torch.cat([prefix_sizes, merged_sizes[:, 0, :, 0]], dim=1)


def _sum_pairs(values: Tensor, merging: Tensor, partner: Tensor, remaining: Tensor) -> Tensor:
    """Add the merging even locations of values (B, T, P, D') to their odd partners; the remaining even ones come first.

    `merging` (B, r) and `remaining` (B, ceil(P / 2) - r) index the even locations, `partner` (B, r) the odd ones.
    """
    merging, partner, remaining = (
        index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
        for index in (merging, partner, remaining)
    )
    even, odd = values[:, :, ::2], values[:, :, 1::2]
    return torch.cat([even.gather(2, remaining), odd.scatter_add(2, partner, even.gather(2, merging))], dim=2)
