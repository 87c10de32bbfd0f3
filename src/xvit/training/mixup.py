"""Mixup and cutmix of the clips in a batch.

Shapes: B clips, T frames, C = 3 colours, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def mix_batch(
    pixel_values: Tensor,
    labels: Tensor | dict[str, Tensor],
    num_classes: int | dict[str, int],
    *,
    mixup: float,
    cutmix: float,
) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
    """Mix each clip with the previous one in the batch. One draw from torch's global generator serves the whole batch.

    Args:
        pixel_values: (B, T, C, H, W) float.
        labels: (B,) class indices, or (B, classes) class probabilities, or a dict of either.
        num_classes: number of classes, or a dict of numbers.
        mixup: alpha of mixup, which blends whole clips; 0 for none.
        cutmix: alpha of cutmix, which pastes a box of one clip into all frames of the other; 0 for none. If both are
            set, one of them is drawn.

    Returns:
        (B, T, C, H, W) float, and (B, classes) class probabilities, or a dict of them. They sum to 1 if the given ones
        do. With neither mixup nor cutmix, the arguments, and no random number is drawn.
    """
    if not mixup and not cutmix:
        return pixel_values, labels
    B = len(pixel_values)
    use_cutmix = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    mix = v2.CutMix(alpha=cutmix, num_classes=B) if use_cutmix else v2.MixUp(alpha=mixup, num_classes=B)
    # The clips' indices in the batch serve as labels. The mixing weights (B, B) then apply to the labels of any task.
    indices = torch.arange(B, device=pixel_values.device)
    mixed, weights = mix(pixel_values.flatten(1, 2), indices)  # (B, T C, H, W): torchvision expects no frame axis
    mixed = mixed.view_as(pixel_values)
    if isinstance(labels, dict) and isinstance(num_classes, dict):
        return mixed, {task: weights @ _probabilities(labels[task], num_classes[task]) for task in labels}
    assert isinstance(labels, Tensor)
    assert isinstance(num_classes, int)
    return mixed, weights @ _probabilities(labels, num_classes)


def _probabilities(labels: Tensor, num_classes: int) -> Tensor:
    """(B, classes) class probabilities, from (B,) class indices or as they are."""
    return labels if labels.ndim == 2 else F.one_hot(labels, num_classes).float()
