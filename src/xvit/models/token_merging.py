"""Token merging (Bolya et al., ICLR 2023) for clips: after each layer, r patches of a frame join those most like them.

    B clips, T frames, N tokens a frame, D channels

A mixed key takes its channels from the same location of several frames. If each frame merged the patches that are alike
in it, location s would mean one part of the picture in one frame and another in the next, and mixing would pair parts
that have nothing to do with each other. So the pairs are chosen once a clip, by likeness averaged over its frames:

    frame 1   a b c d      likeness of a to b, ... averaged       frame 1   ab  c  d      location s is the same
    frame 2   a b c d   ─▶ over the frames: a and b are alike  ─▶ frame 2   ab  c  d      patches in all frames
    frame 3   a b c d                                             frame 3   ab  c  d

A token that stands for several patches counts for as many: the logarithm of their number is added to its scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patches_after_merging(patches: int, number: int, layers: int) -> int:
    """How many of a frame's patches are left by `merge_similar_tokens` of `number` pairs in each of that many layers."""
    for _ in range(layers):
        patches -= min(number, patches // 2)
    return patches


def merge_similar_tokens(
    x: Tensor, sizes: Tensor | None, number: int, *, num_prefix_tokens: int
) -> tuple[Tensor, Tensor]:
    """Merge the most alike patches, the same ones in all frames of a clip.

    Every second patch looks for the one most like it among the others; the best `number` of these pairs merge.

    Args:
        x: tokens (B, T, N, D), prefix tokens first; those are left alone.
        sizes: how many patches each location stands for, (B, N); None for one each.
        number: pairs to merge; no more than half of the patches do.
        num_prefix_tokens: of the N.

    Returns:
        The tokens, averages of what they stand for, (B, T, N - number, D), and their sizes, (B, N - number).
    """
    if sizes is None:
        sizes = x.new_ones(x.shape[0], x.shape[2])
    if x.shape[2] - num_prefix_tokens < 2:  # one patch is left, with no other to join
        return x, sizes
    prefix, patches = x[:, :, :num_prefix_tokens], x[:, :, num_prefix_tokens:]
    sizes_of_prefix, sizes = sizes[:, :num_prefix_tokens], sizes[:, num_prefix_tokens:]
    directions = F.normalize(patches.detach(), dim=-1)
    likeness = (directions[:, :, ::2] @ directions[:, :, 1::2].transpose(-2, -1)).mean(dim=1)  # (B, N / 2, N / 2)
    best, partner = likeness.max(dim=-1)  # of each even patch, (B, N / 2)
    order = best.argsort(dim=-1, descending=True)
    number = min(number, likeness.shape[1], likeness.shape[2])
    leaving, staying = order[:, :number], order[:, number:].sort(dim=-1).values  # which keep their order
    partner = partner.gather(-1, leaving)

    def joined(values: Tensor) -> Tensor:
        """Sums over what is merged, of values (B, T, N, D')."""

        def rows(index: Tensor) -> Tensor:
            return index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])

        even, odd = values[:, :, ::2], values[:, :, 1::2]
        odd = odd.scatter_add(2, rows(partner), even.gather(2, rows(leaving)))
        return torch.cat([even.gather(2, rows(staying)), odd], dim=2)

    weights = sizes[:, None, :, None]
    merged_sizes = joined(weights)  # (B, 1, N', 1)
    merged = joined(patches * weights) / merged_sizes
    return torch.cat([prefix, merged], dim=2), torch.cat([sizes_of_prefix, merged_sizes[:, 0, :, 0]], dim=1)
