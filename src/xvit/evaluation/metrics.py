"""Accuracy metrics of labelled videos, and the files of an evaluation."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, ClassNames, DataConfig, EvalConfig, as_task_dict, to_dict, unwrap_single_task
from xvit.data.annotations.samples import Sample, class_indices
from xvit.evaluation.calibration import Reliability, measure_reliability
from xvit.evaluation.multi_label import MultiLabelEvaluation, compute_multi_label_metrics
from xvit.evaluation.scoring import ScoredVideos, VideoResults, score_videos
from xvit.inference.predictor import Known, Predictor, without_unknown
from xvit.utils import distributed
from xvit.utils.errors import XViTError
from xvit.utils.version import library_versions
from xvit.visualize import plot_confusion_matrix, plot_per_class, plot_reliability


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """The prediction for one video. With several tasks, the last four fields are dicts of tasks.

    Args:
        id: of the sample, as in the annotations.
        path: of the video.
        ground_truth: name of the true class.
        prediction: name of the class with the highest score.
        score: that score, in [0, 1].
        known: whether a calibrated model sees one of its classes; None if the model is not calibrated.
    """

    id: str
    path: str
    ground_truth: str | dict[str, str]
    prediction: str | dict[str, str]
    score: float | dict[str, float]
    known: Known = None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Accuracy in one task, over the videos that could be read.

    Args:
        class_names: the K class names.
        top1: share of videos whose class has the highest score.
        top5: share of videos whose class is among the five highest scores; None for 5 or fewer classes, where it is 1.
        per_class: accuracy of each class; None for a class without videos.
        confusion: (K, K) counts; rows are true classes, columns predicted classes.
        reliability: how often predictions are right, by their score.
        coverage: share of videos that a calibrated model accepts as one of its classes; None if it is not calibrated.
        accepted_top1: top-1 of the accepted videos; None if there are none.
    """

    class_names: list[str]
    top1: float
    top5: float | None
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    reliability: Reliability
    coverage: float | None = None
    accepted_top1: float | None = None

    @property
    def mean_class_accuracy(self) -> float:
        """Mean accuracy over the classes that have videos."""
        measured = [accuracy for accuracy in self.per_class.values() if accuracy is not None]
        return sum(measured) / len(measured)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Without top-5 where there is none, and without coverage if nothing can be rejected."""
        values = asdict(self) | {"mean_class_accuracy": self.mean_class_accuracy}
        values["calibration_error"] = self.reliability.calibration_error
        left_out = {"top5": self.top5, "coverage": self.coverage}
        if self.coverage is None:
            del values["accepted_top1"]
        return {name: value for name, value in values.items() if name not in left_out or value is not None}


@dataclass(frozen=True, kw_only=True)
class Evaluation(VideoResults):
    """The result of evaluating a model with one label per video (and task): `VideoResults`, and its metrics.

    Args:
        top1: share of the videos read whose class has the highest score; with several tasks, in all tasks at once.
        top5: share whose class is among the five highest scores; with several tasks, whose combination of classes is
            among the five highest products of scores. None for 5 or fewer classes (combinations), where it is 1.
        top1_of_all: top-1 if the videos that could not be read count as wrong.
        loss: mean of -log(score of the true class), natural logarithm, summed over tasks.
        tasks: accuracy in each task; a single task is named `SINGLE_TASK`.
    """

    top1: float
    top5: float | None
    top1_of_all: float
    loss: float
    tasks: dict[str, TaskResult]
    samples: list[SampleResult]

    def __str__(self) -> str:
        low, high = self.top1_interval
        top1 = f"top-1 {100 * self.top1:.2f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        top5 = "" if self.top5 is None else f", top-5 {100 * self.top5:.2f} %"
        return self.describe(
            f"{top1}{top5} of {self.videos} videos",
            failed=f": counted as wrong, top-1 {100 * self.top1_of_all:.2f} %",
        )

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of top-1: where it would be on very many videos of this kind."""
        return wilson_interval(round(self.top1 * self.videos), self.videos)

    @property
    def calibration_error(self) -> float:
        """The expected calibration error of the scores; with several tasks, the mean of theirs."""
        errors = [result.reliability.calibration_error for result in self.tasks.values()]
        return sum(errors) / len(errors)

    @property
    def metrics(self) -> dict[str, float]:
        """The values that training logs; the first one selects the best checkpoint."""
        top5 = {} if self.top5 is None else {"top5": self.top5}
        errors = {"val_loss": self.loss, "calibration_error": self.calibration_error}
        return {"top1": self.top1, **top5, **errors, "videos": self.videos}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain values for JSON. Without top-5 where there is none."""
        tasks = {task: result.to_dict() for task, result in self.tasks.items()}
        values = super().to_dict() | {"top1_interval": list(self.top1_interval), "tasks": tasks}
        if self.top5 is None:
            del values["top5"]
        return values | {"calibration_error": self.calibration_error}

    def rows(self) -> Iterable[dict[str, Any]]:
        """The samples, as plain values for JSON."""
        return (without_unknown(asdict(sample)) for sample in self.samples)

    def plot(self, directory: Path) -> None:
        """Write confusion.png, per_class.png and reliability.png of each task."""
        for task, result in self.tasks.items():
            suffix, label = ("", "accuracy") if task == SINGLE_TASK else (f"_{task}", task)
            title, path = f"top-1 {100 * result.top1:.1f} %", directory / f"confusion{suffix}.png"
            plot_confusion_matrix(result.confusion, result.class_names, path, title=title)
            measured = {name: accuracy for name, accuracy in result.per_class.items() if accuracy is not None}
            plot_per_class({label: measured}, directory / f"per_class{suffix}.png")
            error = f"calibration error {100 * result.reliability.calibration_error:.1f} %"
            plot_reliability({error: asdict(result.reliability)}, directory / f"reliability{suffix}.png")


def run_metadata(predictor: Predictor, data: DataConfig, *, checkpoint: str | Path = "") -> dict[str, Any]:
    """What is needed to reproduce an evaluation: the model's hash and clip spec, the data, the library versions.

    Args:
        predictor: with the model.
        data: the videos.
        checkpoint: path of the model, if it was loaded from one.
    """
    return {
        "checkpoint": str(checkpoint),
        "model": predictor.model_hash(),
        "clip": to_dict(predictor.clip_spec),
        "data": to_dict(data),
        "device": str(predictor.device),
        "precision": predictor.model.precision,
        "processes": distributed.world_size(),
        "versions": library_versions(),
    }


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    eval_config: EvalConfig,
    num_workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Evaluate a model on labelled videos: `score_videos`, then `compute_metrics`.

    Args:
        predictor: a model, ready to predict.
        samples: the videos; their labels index the model's classes (see `match_labels`).
        eval_config, num_workers, decode_timeout, on_progress: as in `score_videos`.

    Raises:
        XViTError: a sample has no label or one that the model does not have; none of the videos can be read.
    """
    check_labels(samples, predictor.class_names, multi_label=predictor.multi_label)
    scored = score_videos(
        predictor,
        samples,
        eval_config=eval_config,
        num_workers=num_workers,
        decode_timeout=decode_timeout,
        on_progress=on_progress,
    )
    return compute_metrics(scored)


def compute_metrics(scored: ScoredVideos) -> Evaluation | MultiLabelEvaluation:
    """Compare the scores of labelled videos with their labels.

    Args:
        scored: scores and labels; several labels per video give a `MultiLabelEvaluation`.
    """
    if isinstance(scored.samples[0].label, tuple):
        return compute_multi_label_metrics(scored)
    samples, scores, names = scored.samples, scored.scores, as_task_dict(scored.class_names)
    targets = {task: torch.tensor([as_task_dict(sample.label)[task] for sample in samples]) for task in scores}
    ranks = _target_ranks(scores, targets)
    losses = [-scores[task].gather(1, targets[task][:, None]).clamp_min(1e-12).log() for task in scores]
    results = []
    for index, row in enumerate(scored.rows()):
        labels = {task: names[task][int(targets[task][index])] for task in scores}
        results.append(SampleResult(ground_truth=unwrap_single_task(labels), **row))
    return Evaluation(
        top1=(ranks < 1).float().mean().item(),
        top5=(ranks < 5).float().mean().item() if math.prod(map(len, names.values())) > 5 else None,
        top1_of_all=int((ranks < 1).sum()) / scored.expected,
        loss=torch.stack(losses).sum(dim=0).mean().item(),
        tasks={
            task: _task_result(scores[task], targets[task], names[task], scored.margins.get(task)) for task in scores
        },
        samples=results,
        **scored.shared_fields(),
    )


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's score interval: the shares that the observed one does not exclude at a level of 95 %.

    Unlike the normal approximation, it stays within 0 and 1, and is wider than a point where all or none succeed
    (Wilson, Probable inference, the law of succession, and statistical inference, 1927).

    Args:
        successes: how many of them succeeded.
        total: number of trials, at least 1.

    Returns:
        Both ends, in [0, 1].
    """
    z = 1.959963984540054  # of the standard normal distribution, 95 % lie within -z and z
    share, spread = successes / total, z**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)  # despite rounding


def _target_ranks(scores: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Rank of the true class of each video, from 0, (videos,).

    With several tasks, the classes are all combinations of the tasks' classes, such as EPIC-KITCHENS' actions, and the
    score of a combination is the product of its scores.
    """
    ranks = []
    for row in range(len(next(iter(scores.values())))):
        joint, target = torch.ones(1), 0
        for task, values in scores.items():
            joint = torch.outer(joint, values[row]).flatten()
            target = target * values.shape[1] + int(targets[task][row])
        above = joint > joint[target]
        above[:target] |= joint[:target] == joint[target]  # of equal scores the first class ranks higher
        ranks.append(int(above.sum()))
    return torch.tensor(ranks)


def _task_result(scores: Tensor, targets: Tensor, class_names: list[str], margins: Tensor | None) -> TaskResult:
    K = len(class_names)
    ranks = _target_ranks({"": scores}, {"": targets})
    confusion = torch.zeros(K, K, dtype=torch.int64)
    confusion.index_put_((targets, scores.argmax(dim=1)), torch.ones((), dtype=torch.int64), accumulate=True)
    per_class = {
        name: confusion[row, row].item() / total if (total := int(confusion[row].sum())) else None
        for row, name in enumerate(class_names)
    }
    accepted = None if margins is None else margins >= 0
    return TaskResult(
        class_names=class_names,
        top1=(ranks < 1).float().mean().item(),
        top5=(ranks < 5).float().mean().item() if K > 5 else None,
        per_class=per_class,
        confusion=confusion.tolist(),
        reliability=measure_reliability(scores, targets),
        coverage=None if accepted is None else accepted.float().mean().item(),
        accepted_top1=None if accepted is None or not accepted.any() else (ranks[accepted] < 1).float().mean().item(),
    )


def check_labels(samples: Sequence[Sample], class_names: ClassNames, *, multi_label: bool) -> None:
    """Raise `XViTError` unless the samples have labels for the model's tasks, of its kind, and within its classes."""
    names = as_task_dict(class_names)
    for sample in samples:
        labels = as_task_dict(sample.label)
        if labels.keys() != names.keys():
            raise XViTError(f"{sample.id}: labels for the tasks {list(labels)}, the model has the tasks {list(names)}")
        for task, label in labels.items():
            if label is None:
                raise XViTError(f"{sample.id}: no label: only labelled videos can be evaluated")
            if isinstance(label, tuple) != multi_label:
                number, setting = ("several labels", "true") if multi_label else ("one label", "false")
                predicts = f"the model predicts {number} per video: set data.multi_label={setting}"
                raise XViTError(f"{sample.id}: label {label}, but {predicts}")
            last = len(names[task]) - 1
            for index in class_indices(sample.label, task):
                if not 0 <= index <= last:
                    raise XViTError(f"{sample.id}: label {index}, but the model has the classes 0 to {last}")
