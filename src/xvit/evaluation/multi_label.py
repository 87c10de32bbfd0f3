"""Metrics of multi-label models: a video may have several classes, or none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, as_task_dict
from xvit.data.annotations.samples import class_indices
from xvit.evaluation.scoring import ScoredVideos, VideoResults
from xvit.visualize import plot_per_class


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation(VideoResults):
    """The result of evaluating a multi-label model: `VideoResults`, and its metrics.

    `samples` are dicts: id, path, true classes, scores of all classes.

    Args:
        mean_average_precision: mAP: the mean over the classes that some video has; 0 if there is none.
        average_precision: of each class; None for a class that no video has.
        loss: mean binary cross-entropy over videos and classes, natural logarithm.
    """

    mean_average_precision: float
    average_precision: dict[str, float | None]
    loss: float
    samples: list[dict[str, Any]]

    def __str__(self) -> str:
        return self.describe(f"mAP {100 * self.mean_average_precision:.2f} % of {self.videos} videos")

    @property
    def metrics(self) -> dict[str, float]:
        """The values that training logs; the first one selects the best checkpoint."""
        return {"map": self.mean_average_precision, "val_loss": self.loss, "videos": self.videos}

    def plot(self, directory: Path) -> None:
        """Write per_class.png to a folder."""
        measured = {name: value for name, value in self.average_precision.items() if value is not None}
        if measured:
            plot_per_class({"average precision": measured}, directory / "per_class.png")


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """The mean, over the videos of a class, of the precision at the video's score, without interpolation.

    Args:
        scores: (videos,).
        positive: (videos,), 1 for the videos of the class, of which there is at least one, else 0.
    """
    descending, order = scores.sort(descending=True)
    num_positive = positive[order].cumsum(0)
    # how many videos score at least as high: the last rank of the score, also where videos score the same
    num_above = torch.searchsorted(-descending, -descending, right=True)
    precision = num_positive[num_above - 1].double() / num_above
    return precision[positive[order] == 1].mean().item()


def compute_multi_label_metrics(scored: ScoredVideos) -> MultiLabelEvaluation:
    """Compare the scores of videos with their labels, which are tuples of class indices."""
    names, scores = as_task_dict(scored.class_names)[SINGLE_TASK], scored.scores[SINGLE_TASK]  # (videos, classes)
    ground_truth = torch.zeros_like(scores, dtype=torch.int64)
    for row, sample in zip(ground_truth, scored.samples, strict=True):
        row[list(class_indices(sample.label))] = 1
    has_videos = ground_truth.any(dim=0)  # (classes,)
    precision = [
        average_precision(scores[:, k], ground_truth[:, k]) if has_videos[k] else None for k in range(len(names))
    ]
    measured = [value for value in precision if value is not None]
    return MultiLabelEvaluation(
        mean_average_precision=sum(measured) / max(len(measured), 1),
        average_precision=dict(zip(names, precision, strict=True)),
        loss=torch.nn.functional.binary_cross_entropy(scores.double(), ground_truth.double()).item(),
        samples=[
            {
                "id": sample.id,
                "path": sample.path,
                "ground_truth": [name for name, positive in zip(names, row, strict=True) if positive],
                "scores": dict(zip(names, values, strict=True)),
            }
            for sample, row, values in zip(scored.samples, ground_truth.tolist(), scores.tolist(), strict=True)
        ],
        **scored.shared_fields(),
    )
