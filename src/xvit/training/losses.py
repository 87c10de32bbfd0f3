"""The loss of training, and the mixing of a batch's clips and labels (mixup, cutmix).

Shapes: B clips, T frames, C = 3 colours, H x W pixels.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from xvit.config import as_task_dict, unwrap_single_task


def classification_loss(
    logits: Tensor | dict[str, Tensor],
    labels: Tensor | dict[str, Tensor],
    label_smoothing: float = 0.0,
    weights: Mapping[str, float] | None = None,
    *,
    multi_label: bool = False,
) -> Tensor:
    """Cross-entropy, averaged over clips and summed over tasks.

    For multi-label targets: binary cross-entropy, averaged over clips and classes.

    Args:
        logits: (B, classes), or a dict with one such tensor per task.
        labels: (B,) class indices, or (B, classes) class probabilities, or a dict of either.
        label_smoothing: fraction of the target spread over all classes; for multi-label targets, over 0 and 1.
        weights: weight of each task's loss; 1 for tasks left out.
        multi_label: whether a clip may have several classes.
    """
    targets, weights = as_task_dict(labels), weights or {}
    losses = []
    for task, task_logits in as_task_dict(logits).items():
        task_logits, target = task_logits.float(), targets[task]
        if multi_label:
            loss = F.binary_cross_entropy_with_logits(task_logits, target * (1 - label_smoothing) + label_smoothing / 2)
        else:
            loss = F.cross_entropy(task_logits, target, label_smoothing=label_smoothing)
        losses.append(weights.get(task, 1.0) * loss)
    return torch.stack(losses).sum()


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
    numbers, probabilities = as_task_dict(num_classes), {}
    for task, target in as_task_dict(labels).items():
        probabilities[task] = weights @ (target if target.ndim == 2 else F.one_hot(target, numbers[task]).float())
    return mixed.view_as(pixel_values), unwrap_single_task(probabilities)
