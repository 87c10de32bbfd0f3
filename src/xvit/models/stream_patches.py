"""Patches of a stream that did not change: their tokens are not computed again (after run-length tokenisation,
Choudhury et al., NeurIPS 2024).

    B parallel streams, N tokens per frame, M of them computed, H x W pixels

There, tokens that repeat are dropped from a clip before the transformer. A stream cannot drop them: mixing needs the
keys and values of the same N tokens in each frame. So each layer carries those of unchanged patches forward from the
frame before (`xvit.models.stream_blocks`), and only the other tokens pass through it.

This is an approximation, even for patches of identical pixels: their tokens would have seen what changed elsewhere.
"""

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor

from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range


class ChangedPatches:
    """Chooses the tokens of each frame that are computed: the prefix tokens, and those of patches that changed.

    A patch is compared with the pixels that its token was last computed from, not with the frame before: otherwise, a
    slow change would never be seen.

    Args:
        model: whose patches.
        threshold: mean absolute difference of a patch's `pixel_values` up to which it is unchanged; 0 for identical
            pixels only.

    Attributes:
        pixels: (B, C, H, W), of each patch those that its token was last computed from; None before the first frame.

    Raises:
        XViTError: a negative threshold; a model whose unchanged tokens cannot be carried forward.
    """

    def __init__(self, model: XViT, threshold: float) -> None:
        check_range("unchanged_threshold", threshold, 0)
        _check_supported(model)
        self.threshold = threshold
        self.num_prefix_tokens: int = model.backbone.num_prefix_tokens
        self.patch_size: tuple[int, int] = model.backbone.patch_embed.patch_size
        self.pixels: Tensor | None = None

    def select(self, frame: Tensor) -> Tensor:
        """The indices (M,) of the tokens to compute, in ascending order.

        Args:
            frame: (B, 1, C, H, W). A patch that changed in one of the B streams is computed in all of them.
        """
        new = frame[:, 0]
        if self.pixels is None:
            rows, columns = (size // patch for size, patch in zip(new.shape[2:], self.patch_size, strict=True))
            changed = torch.ones(rows, columns, dtype=torch.bool, device=new.device)
            self.pixels = new.clone()
        else:
            difference = (new - self.pixels).abs().mean(dim=1, keepdim=True)  # (B, 1, H, W)
            difference = F.avg_pool2d(difference, self.patch_size).amax(dim=(0, 1))  # (rows, columns)
            changed = ~(difference <= self.threshold)  # NaN is a change
            height, width = self.patch_size
            mask = changed.repeat_interleave(height, dim=0).repeat_interleave(width, dim=1)  # (H, W)
            self.pixels = torch.where(mask, new, self.pixels)
        patches = changed.flatten().nonzero()[:, 0]
        prefix = torch.arange(self.num_prefix_tokens, device=new.device)
        return torch.cat([prefix, self.num_prefix_tokens + patches])


def _check_supported(model: XViT) -> None:
    config, embed = model.config, model.backbone.patch_embed
    if any(layer.pattern.lookahead for layer in model.attention_layers):
        raise XViTError("unchanged_threshold with centered mixing is not supported: use a model with causal=True")
    if any(layer.pattern.mixes_tokens for layer in model.attention_layers):
        raise XViTError(
            "unchanged_threshold with mix_inputs='x' is not supported: only keys and values are carried forward; "
            "use mix_inputs='keys_values'"
        )
    if config.summary_tokens:
        raise XViTError(
            f"unchanged_threshold with summary_tokens={config.summary_tokens} is not supported: use summary_tokens=0"
        )
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad:
        raise XViTError(
            f"unchanged_threshold with backbone={config.backbone!r} is not supported: its tokens are not those of "
            "patches of pixels; use a plain ViT"
        )
