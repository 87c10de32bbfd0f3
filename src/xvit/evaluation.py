"""Testing a model on labelled videos: every video counted once, the unreadable ones named."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

import xvit
from xvit.config import DataConfig, EvalConfig, Labels, by_task, labels_by_task, plain, to_dict
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset, make_loader
from xvit.errors import VideoError, XViTError, did_you_mean
from xvit.inference import Predictor
from xvit.visualize import plot_confusion, plot_per_class


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
        labels: the K class names.
        top1: share of the videos whose class has the highest score.
        top5: share of those whose class is among the five highest.
        per_class: accuracy of each class; None for one without videos.
        confusion: (K, K) counts; rows are the truth, columns the predictions.
    """

    labels: list[str]
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
        top5: the same among the five highest scores (of each task).
        top1_of_all: top-1 with the videos that could not be read counted as wrong.
        loss: mean of -log(score of the right class), natural logarithm, summed over tasks.
        tasks: accuracy in each task; the only one is named None.
        expected: number of videos asked for: read and failed.
        videos: number of videos that were read.
        failures: path and reason of each that was not.
        temporal_views: clips along each video.
        spatial_views: crops of each clip.
        seconds: wall time of the test.
        samples: the prediction of each read video.
    """

    top1: float
    top5: float
    top1_of_all: float
    loss: float
    tasks: dict[str | None, TaskResult]
    expected: int
    videos: int
    failures: list[tuple[str, str]]
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

    def to_dict(self) -> dict[str, Any]:
        """All but the samples' predictions, as plain values for JSON."""
        values = asdict(replace(self, samples=[]))
        del values["samples"]
        tasks = {
            task: values["tasks"][task] | {"mean_class_accuracy": result.mean_class_accuracy}
            for task, result in self.tasks.items()
        }
        values["tasks"] = {"label" if task is None else task: result for task, result in tasks.items()}
        return values

    def save(self, directory: str | Path, *, of: Mapping[str, Any]) -> None:
        """Write evaluation.json, predictions.jsonl (a line a video), and for each task confusion.png, per_class.png.

        Args:
            directory: made if it is not there.
            of: what was measured, by `certificate`; put before the results in evaluation.json.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        values = {"of": dict(of)} | self.to_dict()
        (directory / "evaluation.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        rows = "".join(json.dumps(asdict(sample)) + "\n" for sample in self.samples)
        (directory / "predictions.jsonl").write_text(rows, encoding="utf-8")
        for task, result in self.tasks.items():
            name = "" if task is None else f"_{task}"
            title = f"top-1 {100 * result.top1:.1f} %"
            plot_confusion(result.confusion, result.labels, directory / f"confusion{name}.png", title=title)
            known = {label: share for label, share in result.per_class.items() if share is not None}
            plot_per_class({task or "accuracy": known}, directory / f"per_class{name}.png")


def certificate(predictor: Predictor, data: DataConfig) -> dict[str, Any]:
    """What a result is of, so that it can be repeated: the model by its hash, its clips, the data, the versions."""
    return {
        "model": predictor.model.fingerprint(),
        "clip": to_dict(predictor.clip),
        "data": to_dict(data),
        "device": str(predictor.device),
        "versions": {"xvit": xvit.__version__, "torch": str(torch.__version__), "timm": timm.__version__},
    }


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    eval_config: EvalConfig,
    workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Test a model on labelled videos.

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
    _check_labels(samples, predictor.labels)
    started = time.perf_counter()
    dataset = VideoDataset(
        samples=samples,
        spec=predictor.clip,
        temporal_views=eval_config.temporal_views,
        spatial_views=eval_config.spatial_views,
        decode_timeout=decode_timeout,
    )
    indices: list[Tensor] = []
    scores: list[dict[str | None, Tensor]] = []
    errors: dict[int, VideoError] = {}
    for batch in make_loader(dataset, batch_size=eval_config.batch_size, workers=workers):
        errors.update(batch["errors"])
        if len(batch["indices"]):
            indices.append(batch["indices"])
            scores.append(by_task(predictor.scores(batch["pixels"])))
        if on_progress is not None:
            on_progress(sum(map(len, indices)) + len(errors), len(samples))
    failures = [(errors[index].path, errors[index].reason) for index in sorted(errors)]
    if not indices:
        raise XViTError(f"none of {len(samples)} videos could be read; the first: {': '.join(failures[0])}")
    read = [samples[index] for index in torch.cat(indices).tolist()]
    return _count(
        read,
        {task: torch.cat([part[task] for part in scores]).cpu() for task in scores[0]},
        predictor.labels,
        failures=failures,
        temporal_views=eval_config.temporal_views,
        spatial_views=eval_config.spatial_views,
        seconds=time.perf_counter() - started,
    )


def match_labels(samples: Sequence[Sample], classes: Labels, labels: Labels) -> list[Sample]:
    """Samples labelled by the classes of their data set, labelled by the classes of a model, by name.

    Args:
        samples: the videos.
        classes: the data set's class names, which the samples' labels index.
        labels: the model's.

    Raises:
        XViTError: other tasks than the model's, a class that the model does not have.
    """
    theirs, ours = labels_by_task(classes), labels_by_task(labels)
    if theirs.keys() != ours.keys():
        known, found = (", ".join(map(str, filter(None, tasks))) or "one without a name" for tasks in (ours, theirs))
        raise XViTError(f"a model of the tasks {known} on videos with labels of {found}")
    places = {task: {name: index for index, name in enumerate(names)} for task, names in ours.items()}
    for task, names in theirs.items():
        for name in names:
            if name not in places[task]:
                hint = did_you_mean(name, ours[task])
                raise XViTError(f'class "{name}" is not one of the {len(ours[task])} that the model knows.{hint}')

    def matched(sample: Sample) -> Sample:
        if sample.label is None:
            return sample
        found = {task: places[task][theirs[task][label]] for task, label in by_task(sample.label).items()}
        return replace(sample, label=plain(found))

    return [matched(sample) for sample in samples]


def _count(
    read: list[Sample],
    scores: dict[str | None, Tensor],
    labels: Labels,
    *,
    failures: list[tuple[str, str]],
    temporal_views: int,
    spatial_views: int,
    seconds: float,
) -> Evaluation:
    """Turn scores, (videos, classes) a task, into the result."""
    names = labels_by_task(labels)
    truths = {task: torch.tensor([by_task(sample.label)[task] for sample in read]) for task in scores}  # (videos,)
    top = {task: scores[task].topk(min(5, len(names[task]))).indices for task in scores}  # (videos, up to 5)
    hits = {task: top[task] == truths[task][:, None] for task in scores}
    top1 = torch.stack([hit[:, 0] for hit in hits.values()]).all(dim=0)  # (videos,)
    top5 = torch.stack([hit.any(dim=1) for hit in hits.values()]).all(dim=0)
    losses = [-scores[task].gather(1, truths[task][:, None]).clamp_min(1e-12).log() for task in scores]
    results = [
        SampleResult(
            id=sample.id,
            path=sample.path,
            truth=plain({task: names[task][int(truths[task][row])] for task in scores}),
            prediction=plain({task: names[task][int(top[task][row, 0])] for task in scores}),
            score=plain({task: float(scores[task][row].max()) for task in scores}),
        )
        for row, sample in enumerate(read)
    ]
    return Evaluation(
        top1=top1.float().mean().item(),
        top5=top5.float().mean().item(),
        top1_of_all=int(top1.sum()) / (len(read) + len(failures)),
        loss=torch.stack(losses).sum(dim=0).mean().item(),
        tasks={task: _task_result(scores[task], truths[task], names[task]) for task in scores},
        expected=len(read) + len(failures),
        videos=len(read),
        failures=failures,
        temporal_views=temporal_views,
        spatial_views=spatial_views,
        seconds=seconds,
        samples=results,
    )


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
    return TaskResult(labels=labels, top1=top1, top5=top5, per_class=per_class, confusion=confusion.tolist())


def _check_labels(samples: Sequence[Sample], labels: Labels) -> None:
    names = labels_by_task(labels)
    for sample in samples:
        label = by_task(sample.label)
        if label.keys() != names.keys():
            raise XViTError(f"{sample.id}: labels of tasks {list(label)}, but the model's tasks are {list(names)}")
        for task, index in label.items():
            if index is None:
                raise XViTError(f"{sample.id}: no label: only labelled videos can be evaluated")
            if not 0 <= index < len(names[task]):
                raise XViTError(f"{sample.id}: label {index}, but the model has classes 0 to {len(names[task]) - 1}")
