"""The training loss."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from xvit.config import as_task_dict


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
