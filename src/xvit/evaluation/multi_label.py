"""How right the scores are where a video may have several classes, or none."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional.classification import binary_average_precision

from xvit.config import SINGLE_TASK, as_task_dict
from xvit.evaluation.multi_view import ScoredVideos, write_numbers
from xvit.visualize.plots import plot_per_class


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation:
    """The result of a test of a model of several labels a video.

    Args:
        mean_average_precision: mAP: the mean over the classes that some video has; 0 without one.
        average_precision: of each class; None for one that no video has.
        loss: mean binary cross-entropy over videos and classes, natural logarithm.
        expected: number of videos asked for: read and failed.
        videos: number of videos that were read.
        failures: id, path and reason of each that was not.
        temporal_views: clips along each video.
        spatial_views: crops of each clip.
        seconds: wall time of the test.
        samples: of each read video its id, path, true classes, and the score of each class.
    """

    mean_average_precision: float
    average_precision: dict[str, float | None]
    loss: float
    expected: int
    videos: int
    failures: list[tuple[str, str, str]]
    temporal_views: int
    spatial_views: int
    seconds: float
    samples: list[dict[str, Any]]

    def __str__(self) -> str:
        views = f"{self.temporal_views}x{self.spatial_views} views"
        failed = f"; {len(self.failures)} could not be read" if self.failures else ""
        mean = 100 * self.mean_average_precision
        return f"mAP {mean:.2f} % of {self.videos} videos, {views}{failed}, {self.seconds:.1f} s"

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that a training follows; the first tells which checkpoint is the best."""
        return {"map": self.mean_average_precision, "val_loss": self.loss}

    def to_dict(self) -> dict[str, Any]:
        """All but the samples' predictions, as plain values for JSON."""
        values = asdict(self)
        del values["samples"]
        return values

    def save(self, directory: str | Path, *, of: Mapping[str, Any]) -> None:
        """Write evaluation.json, predictions.jsonl (a line a video) and per_class.png.

        Args:
            directory: made if it is not there.
            of: what was measured, by `run_metadata`; put before the results in evaluation.json.
        """
        directory = Path(directory)
        known = {label: value for label, value in self.average_precision.items() if value is not None}
        if known:
            plot_per_class({"average precision": known}, directory / "per_class.png")
        write_numbers(directory, {"of": dict(of)} | self.to_dict(), self.samples)


def measure_multi_label(scored: ScoredVideos) -> MultiLabelEvaluation:
    """Compare the scores of videos, whose labels are tuples, with these labels."""
    names, scores = as_task_dict(scored.class_names)[SINGLE_TASK], scored.scores[SINGLE_TASK]  # (videos, classes)
    truth = torch.zeros_like(scores, dtype=torch.int64)
    for row, sample in zip(truth, scored.samples, strict=True):
        assert isinstance(sample.label, tuple)
        row[list(sample.label)] = 1
    there = truth.any(dim=0)  # (classes,)
    precision = [
        binary_average_precision(scores[:, k], truth[:, k]).item() if there[k] else None for k in range(len(names))
    ]
    known = [value for value in precision if value is not None]
    return MultiLabelEvaluation(
        mean_average_precision=sum(known) / max(len(known), 1),
        average_precision=dict(zip(names, precision, strict=True)),
        loss=torch.nn.functional.binary_cross_entropy(scores.double(), truth.double()).item(),
        expected=scored.expected,
        videos=len(scored.samples),
        failures=scored.failures,
        temporal_views=scored.temporal_views,
        spatial_views=scored.spatial_views,
        seconds=scored.seconds,
        samples=[
            {
                "id": sample.id,
                "path": sample.path,
                "truth": [name for name, has in zip(names, row, strict=True) if has],
                "scores": dict(zip(names, values, strict=True)),
            }
            for sample, row, values in zip(scored.samples, truth.tolist(), scores.tolist(), strict=True)
        ],
    )
