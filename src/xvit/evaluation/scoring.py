"""Scoring many videos with a model. The videos are divided among the processes of the run."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvit.config import ClassNames, DataConfig, EvalConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations import Sample, remap_label
from xvit.data.dataset import Batch
from xvit.data.loader import make_loader
from xvit.inference.frame_stream import ClipScores
from xvit.inference.predictor import Predictor
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError, did_you_mean
from xvit.utils.files import atomic_write_text, write_errors, write_json


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoResults:
    """Results for a list of videos. Its subclasses add scores or metrics.

    Args:
        samples: the videos that could be read, or the results for them, in the order in which they were given.
        failures: id, path and reason of each video that could not be read.
        warnings: id, path and warnings of each video that was read, but with damaged or repeated frames.
        temporal_views: clips along each video.
        spatial_views: crops of each clip.
        seconds: wall time.
    """

    samples: Sequence[Any]
    failures: list[tuple[str, str, str]]
    warnings: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    temporal_views: int
    spatial_views: int
    seconds: float

    @property
    def videos(self) -> int:
        """Number of videos that were read."""
        return len(self.samples)

    @property
    def expected(self) -> int:
        """Number of videos given: read and failed."""
        return len(self.samples) + len(self.failures)

    @property
    def views(self) -> str:
        """The views per video, in words."""
        return describe_views(self.temporal_views, self.spatial_views)

    def describe(self, metrics: str, *, failed: str = "") -> str:
        """One line: the metrics, the views, the numbers of failures and of warnings, the time."""
        failures = f"; {len(self.failures)} could not be read{failed}" if self.failures else ""
        warnings = f"; {len(self.warnings)} were read with warnings" if self.warnings else ""
        return f"{metrics}, {self.views}{failures}{warnings}, {self.seconds:.1f} s"

    def shared_fields(self) -> dict[str, Any]:
        """The fields of this class, without the samples."""
        names = ("failures", "warnings", "temporal_views", "spatial_views", "seconds")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Everything but samples, scores and class names, as plain values for JSON."""
        names = [f.name for f in fields(self) if f.name not in ("samples", "scores", "class_names", "margins")]
        return {"expected": self.expected, "videos": self.videos} | {name: getattr(self, name) for name in names}

    def rows(self) -> Iterable[dict[str, Any]]:
        """The prediction for each video read, as plain values for JSON."""
        return self.samples

    def plot(self, directory: Path) -> None:
        """Write the plots, if there are any."""

    def save(self, directory: str | Path, *, metadata: Mapping[str, Any]) -> None:
        """Write evaluation.json, predictions.jsonl (one line per video) and the plots to a folder, which may be new.

        `metadata` (model, data and versions, from `run_metadata`) becomes a part of evaluation.json.
        """
        directory = Path(directory)
        with write_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self.plot(directory)
        values = {"metadata": dict(metadata)} | self.to_dict()
        atomic_write_text(directory / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows()))
        write_json(directory / "evaluation.json", values)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredVideos(VideoResults):
    """Scores of videos, with or without labels: `VideoResults`, and their scores.

    Args:
        scores: for each task, (samples, classes) in [0, 1].
        class_names: the model's class names.
        margins: for each task of a calibrated model, (samples,), below 0: none of the classes; else empty.
    """

    samples: list[Sample]
    scores: dict[str, Tensor]
    class_names: ClassNames
    margins: dict[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.describe(f"{self.videos} videos scored") + "; they have no labels"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The best class of each video and its score, and of a calibrated model `known`; dicts for several tasks."""
        names = as_task_dict(self.class_names)
        best = {task: values.max(dim=1) for task, values in self.scores.items()}  # values and indices, (samples,)
        for row, sample in enumerate(self.samples):
            classes = {task: names[task][int(top.indices[row])] for task, top in best.items()}
            scores = {task: float(top.values[row]) for task, top in best.items()}
            result: dict[str, Any] = {"id": sample.id, "path": sample.path, "prediction": unwrap_single_task(classes)}
            result["score"] = unwrap_single_task(scores)
            if self.margins:
                known = {task: bool(values[row] >= 0) for task, values in self.margins.items()}
                result["known"] = unwrap_single_task(known)
            yield result


def score_videos(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    eval_config: EvalConfig,
    num_workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoredVideos:
    """Score videos, with or without labels. With several processes, each reads a part and all return the full result.

    Args:
        predictor: a model, ready to predict.
        samples: the videos.
        eval_config: views per video, batch size.
        num_workers: loader processes; 0 decodes in this process.
        decode_timeout: seconds after which a video that is still being read counts as failed; 0 for no limit.
        on_progress: called with the number of videos done and the total; with several processes the first number is
            an estimate: this process's count times the number of processes.

    Raises:
        XViTError: there are no videos, or none of them can be read.
    """
    if not samples:
        raise XViTError("samples=[]: expected at least one video")
    started = time.perf_counter()
    mine = range(distributed.rank(), len(samples), distributed.world_size())  # each video in exactly one process
    rows: dict[int, ClipScores] = {}  # scores (classes,) and margins () of a sample
    errors, warnings = dict[int, VideoError](), dict[int, tuple[str, ...]]()
    if mine:
        dataset = predictor.dataset_class(
            samples=[replace(samples[index], label=None) for index in mine],
            clip_spec=predictor.clip_spec,
            temporal_views=eval_config.temporal_views,
            spatial_views=eval_config.spatial_views,
            decode_timeout=decode_timeout,
        )
        with closing(make_loader(dataset, batch_size=eval_config.batch_size, num_workers=num_workers)) as loader:
            for batch in loader:
                errors |= {mine[index]: error for index, error in batch["errors"].items()}
                warnings |= {mine[index]: texts for index, texts in batch["warnings"].items()}
                rows |= {mine[index]: clip for index, clip in _score_batch(predictor, batch)}
                if on_progress is not None:
                    on_progress(min((len(rows) + len(errors)) * distributed.world_size(), len(samples)), len(samples))
    for other_rows, other_errors, other_warnings in distributed.all_gather((rows, errors, warnings)):
        rows, errors, warnings = rows | other_rows, errors | other_errors, warnings | other_warnings
    if not rows:
        raise XViTError(f"none of {len(samples)} videos could be read; the first: {errors[min(errors)]}")
    indices = sorted(rows)
    scores, margins = map(_stack, zip(*(rows[index] for index in indices), strict=True))
    return ScoredVideos(
        samples=[samples[index] for index in indices],
        scores=scores,
        margins=margins,
        class_names=predictor.class_names,
        failures=[(samples[index].id, errors[index].path, errors[index].reason) for index in sorted(errors)],
        warnings=[(samples[index].id, samples[index].path, warnings[index]) for index in sorted(warnings)],
        temporal_views=eval_config.temporal_views,
        spatial_views=eval_config.spatial_views,
        seconds=time.perf_counter() - started,
    )


def _stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    return {task: torch.from_numpy(np.stack([row[task] for row in rows])) for task in rows[0]}


def _score_batch(predictor: Predictor, batch: Batch) -> Iterator[tuple[int, ClipScores]]:
    """The index of each video of a batch, and its scores (classes,) and margins ()."""
    if len(batch["indices"]):
        clips = predictor.predict_scores(batch["pixels"])
        for row, index in enumerate(batch["indices"].tolist()):
            yield index, ClipScores(*({task: x[row] for task, x in kind.items()} for kind in clips))


def describe_views(temporal_views: int, spatial_views: int) -> str:
    """The views per video, in words: `2 x 3 views (temporal x spatial)`."""
    return f"{temporal_views} x {spatial_views} views (temporal x spatial)"


def match_labels(samples: Sequence[Sample], class_names: ClassNames, model_class_names: ClassNames) -> list[Sample]:
    """The samples with labels that index the model's classes, matched by class name.

    Args:
        class_names: the data set's class names, which the samples' labels index.
        model_class_names: the model's class names.

    Raises:
        XViTError: the tasks differ from the model's, or the model lacks a class.
    """
    if all(sample.label is None for sample in samples):
        return list(samples)
    theirs, ours = as_task_dict(class_names), as_task_dict(model_class_names)
    if theirs.keys() != ours.keys():
        tasks = describe_tasks(model_class_names), describe_tasks(class_names)
        raise XViTError(f"the model predicts {tasks[0]}, but the videos are labelled for {tasks[1]}")
    indices: dict[str, list[int]] = {}
    for task, names in theirs.items():
        model_index = {name: index for index, name in enumerate(ours[task])}
        for name in names:
            if name not in model_index:
                hint = did_you_mean(name, ours[task])
                raise XViTError(f'class "{name}" is not one of the {len(ours[task])} classes of the model.{hint}')
        indices[task] = [model_index[name] for name in names]
    return [replace(sample, label=remap_label(sample.label, indices)) for sample in samples]


def describe_tasks(class_names: ClassNames) -> str:
    """The tasks of a model or a data set, for a message."""
    return f"the tasks {', '.join(sorted(class_names))}" if isinstance(class_names, dict) else "a single unnamed task"
