"""How right the scores of labelled videos are, and the files that say so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from xvit.config import SINGLE_TASK, ClassNames, DataConfig, EvalConfig, as_task_dict, to_dict, unwrap_single_task
from xvit.data.annotations.samples import Sample
from xvit.evaluation.multi_label import MultiLabelEvaluation, measure_multi_label
from xvit.evaluation.multi_view import ScoredVideos, score, write_numbers
from xvit.inference.predictor import Predictor
from xvit.utils import distributed
from xvit.utils.errors import XViTError
from xvit.utils.version import __version__
from xvit.visualize.plots import plot_confusion, plot_per_class


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """What the model said of one video; for several tasks, dicts of them.

    Args:
        id: of the sample.
        path: of the video.
        truth: the right class.
        prediction: the class with the highest score.
        score: its score, in [0, 1].
    """

    id: str
    path: str
    truth: str | dict[str, str]
    prediction: str | dict[str, str]
    score: float | dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Accuracy in one task, over the videos that could be read.

    Args:
        class_names: the K class names.
        top1: share of the videos whose class has the highest score.
        top5: share of those whose class is among the five highest.
        per_class: accuracy of each class; None for one without videos.
        confusion: (K, K) counts; rows are the truth, columns the predictions.
    """

    class_names: list[str]
    top1: float
    top5: float
    per_class: dict[str, float | None]
    confusion: list[list[int]]

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have videos."""
        known = [accuracy for accuracy in self.per_class.values() if accuracy is not None]
        return sum(known) / len(known)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of a test.

    Args:
        top1: share of the read videos named rightly; with several tasks, in all of them at once.
        top5: share of those whose class is among the five highest; with several tasks, whose combination of classes is
            among the five highest products of scores.
        top1_of_all: top-1 with the videos that could not be read counted as wrong.
        loss: mean of -log(score of the right class), natural logarithm, summed over tasks.
        tasks: accuracy in each task; the only one is named None.
        expected: number of videos asked for: read and failed.
        videos: number of videos that were read.
        failures: id, path and reason of each that was not.
        temporal_views: clips along each video.
        spatial_views: crops of each clip.
        seconds: wall time of the test.
        samples: the prediction of each read video.
    """

    top1: float
    top5: float
    top1_of_all: float
    loss: float
    tasks: dict[str, TaskResult]
    expected: int
    videos: int
    failures: list[tuple[str, str, str]]
    temporal_views: int
    spatial_views: int
    seconds: float
    samples: list[SampleResult]

    def __str__(self) -> str:
        views = f"{self.temporal_views}x{self.spatial_views} views"
        text = f"top-1 {100 * self.top1:.2f} %, top-5 {100 * self.top5:.2f} % of {self.videos} videos, {views}"
        if self.failures:
            text += f"; {len(self.failures)} could not be read, with them as wrong top-1 {100 * self.top1_of_all:.2f} %"
        return f"{text}, {self.seconds:.1f} s"

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that a training follows; the first tells which checkpoint is the best."""
        return {"top1": self.top1, "top5": self.top5, "val_loss": self.loss}

    def to_dict(self) -> dict[str, Any]:
        """All but the samples' predictions, as plain values for JSON."""
        values = asdict(replace(self, samples=[]))
        del values["samples"]
        tasks = {
            task: values["tasks"][task] | {"mean_class_accuracy": result.mean_class_accuracy}
            for task, result in self.tasks.items()
        }
        values["tasks"] = {"label" if task == SINGLE_TASK else task: result for task, result in tasks.items()}
        return values

    def save(self, directory: str | Path, *, of: Mapping[str, Any]) -> None:
        """Write evaluation.json, predictions.jsonl (a line a video), and for each task confusion.png, per_class.png.

        Args:
            directory: made if it is not there.
            of: what was measured, by `run_metadata`; put before the results in evaluation.json.
        """
        directory = Path(directory)
        for task, result in self.tasks.items():
            name = "" if task == SINGLE_TASK else f"_{task}"
            title = f"top-1 {100 * result.top1:.1f} %"
            plot_confusion(result.confusion, result.class_names, directory / f"confusion{name}.png", title=title)
            known = {label: share for label, share in result.per_class.items() if share is not None}
            plot_per_class({task or "accuracy": known}, directory / f"per_class{name}.png")
        write_numbers(directory, {"of": dict(of)} | self.to_dict(), map(asdict, self.samples))


def run_metadata(predictor: Predictor, data: DataConfig, *, checkpoint: str | Path = "") -> dict[str, Any]:
    """What a result is of, so that it can be repeated: the model by its hash, its clips, the data, the versions.

    Args:
        predictor: the model.
        data: where the videos are.
        checkpoint: where the model came from, if it came from a file.
    """
    return {
        "checkpoint": str(checkpoint),
        "model": predictor.model_hash(),
        "clip": to_dict(predictor.clip_spec),
        "data": to_dict(data),
        "device": str(predictor.device),
        "precision": predictor.model.precision,
        "processes": distributed.world_size(),
        "versions": {"xvit": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
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
    """Test a model on labelled videos: `score` them and `measure` the scores, which see.

    Args:
        predictor: the model.
        samples: the videos; their labels index the model's classes (see `match_labels`).
        eval_config: views of each video, videos at a time.
        workers: loader processes; 0 decodes in this one.
        decode_timeout: seconds after which a video that is still being read counts as failed; 0 for no limit.
        on_progress: called with the number of videos done and of all videos.

    Raises:
        XViTError: samples without a label or with one that the model does not have; not one video can be read.
    """
    check_labels(samples, predictor.class_names, multi_label=predictor.multi_label)
    scored = score(
        predictor,
        samples,
        eval_config=eval_config,
        num_workers=num_workers,
        decode_timeout=decode_timeout,
        on_progress=on_progress,
    )
    return measure(scored)


def measure(scored: ScoredVideos) -> Evaluation | MultiLabelEvaluation:
    """Compare the scores of labelled videos with their labels."""
    if isinstance(scored.samples[0].label, tuple):
        return measure_multi_label(scored)
    read, scores, names = scored.samples, scored.scores, as_task_dict(scored.class_names)
    truths = {task: torch.tensor([as_task_dict(sample.label)[task] for sample in read]) for task in scores}  # (videos,)
    best = {task: scores[task].argmax(dim=1) for task in scores}  # (videos,)
    rank = _rank(scores, truths)
    losses = [-scores[task].gather(1, truths[task][:, None]).clamp_min(1e-12).log() for task in scores]
    results = [
        SampleResult(
            id=sample.id,
            path=sample.path,
            truth=unwrap_single_task({task: names[task][int(truths[task][row])] for task in scores}),
            prediction=unwrap_single_task({task: names[task][int(best[task][row])] for task in scores}),
            score=unwrap_single_task({task: float(scores[task][row].max()) for task in scores}),
        )
        for row, sample in enumerate(read)
    ]
    return Evaluation(
        top1=(rank < 1).float().mean().item(),
        top5=(rank < 5).float().mean().item(),
        top1_of_all=int((rank < 1).sum()) / scored.expected,
        loss=torch.stack(losses).sum(dim=0).mean().item(),
        tasks={task: _task_result(scores[task], truths[task], names[task]) for task in scores},
        expected=scored.expected,
        videos=len(read),
        failures=scored.failures,
        temporal_views=scored.temporal_views,
        spatial_views=scored.spatial_views,
        seconds=scored.seconds,
        samples=results,
    )


def _rank(scores: dict[str, Tensor], truths: dict[str, Tensor]) -> Tensor:
    """How many classes come before the right one, (videos,). With several tasks the classes are all combinations of
    theirs, such as EPIC-KITCHENS' actions, and the score of one is the product of the scores.
    """
    ranks = []
    for row in range(len(next(iter(scores.values())))):
        joint, right = torch.ones(1), 0
        for task, values in scores.items():
            joint = torch.outer(joint, values[row]).flatten()
            right = right * values.shape[1] + int(truths[task][row])
        above = joint > joint[right]
        above[:right] |= joint[:right] == joint[right]  # of equal ones the first counts as the better
        ranks.append(int(above.sum()))
    return torch.tensor(ranks)


def _task_result(scores: Tensor, truth: Tensor, labels: list[str]) -> TaskResult:
    K = len(labels)
    top1, top5 = (
        multiclass_accuracy(scores, truth, num_classes=K, top_k=min(k, K), average="micro").item() for k in (1, 5)
    )
    confusion = multiclass_confusion_matrix(scores, truth, num_classes=K)  # (K, K)
    per_class = {
        label: confusion[row, row].item() / total if (total := int(confusion[row].sum())) else None
        for row, label in enumerate(labels)
    }
    return TaskResult(class_names=labels, top1=top1, top5=top5, per_class=per_class, confusion=confusion.tolist())


def check_labels(samples: Sequence[Sample], labels: ClassNames, *, multi_label: bool) -> None:
    """See that each sample has labels that index the model's classes.

    Raises:
        XViTError: one has not.
    """
    names = as_task_dict(labels)
    for sample in samples:
        label = as_task_dict(sample.label)
        if label.keys() != names.keys():
            raise XViTError(f"{sample.id}: labels of tasks {list(label)}, but the model's tasks are {list(names)}")
        for task, found in label.items():
            if found is None:
                raise XViTError(f"{sample.id}: no label: only labelled videos can be evaluated")
            if isinstance(found, tuple) != multi_label:
                known = "several labels" if multi_label else "one label"
                raise XViTError(f"{sample.id}: label {found}: the model is for {known} a video: data.multi_label")
            for index in found if isinstance(found, tuple) else (found,):
                if not 0 <= index < len(names[task]):
                    raise XViTError(
                        f"{sample.id}: label {index}, but the model has classes 0 to {len(names[task]) - 1}"
                    )
