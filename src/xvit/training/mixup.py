"""Mixup and cutmix: the clips of a batch are mixed in pairs, and their labels say how much of each is there.

Shapes: B clips, T frames, C = 3 colours, H x W a view.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def mix_batch(
    pixels: Tensor,
    labels: Tensor | dict[str, Tensor],
    num_classes: int | dict[str, int],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
    """Mix each clip with the one before it in the batch, all by one draw from torch's global generator.

    Args:
        pixels: (B, T, C, H, W) float.
        labels: (B,) class indices, or (B, classes) shares, or a dict of either.
        num_classes: number of classes, or a dict of them.
        mixup: alpha of mixup, the blending of whole clips; 0 for none.
        cutmix: alpha of cutmix, a box of one clip, through all its frames, in the other; 0 for none. With both, one of
            them is drawn.

    Returns:
        (B, T, C, H, W) float, and (B, classes) shares of the classes, which sum to 1 unless those given do not, or a
        dict of them. With neither mixup nor cutmix: what was given, and nothing is drawn.
    """
    if not mixup and not cutmix:
        return pixels, labels
    size = len(pixels)
    cut = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    mix = v2.CutMix(alpha=cutmix, num_classes=size) if cut else v2.MixUp(alpha=mixup, num_classes=size)
    # The clips' places in the batch stand for labels: the shares (B, B) of the clips then serve the labels of any task.
    places = torch.arange(size, device=pixels.device)
    mixed, shares = mix(pixels.flatten(1, 2), places)  # (B, T C, H, W): without frames, as torchvision expects
    mixed = mixed.view_as(pixels)
    if isinstance(labels, dict) and isinstance(num_classes, dict):
        return mixed, {task: shares @ _shares(labels[task], num_classes[task]) for task in labels}
    assert isinstance(labels, Tensor)
    assert isinstance(num_classes, int)
    return mixed, shares @ _shares(labels, num_classes)


def _shares(labels: Tensor, num_classes: int) -> Tensor:
    """(B, classes) shares of what may be (B,) class indices."""
    return labels if labels.ndim == 2 else F.one_hot(labels, num_classes).float()
