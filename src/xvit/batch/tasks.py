"""What a job does with each video: predict its class, write its features, check it.

A task is a few plain settings, which travel to where the work is done. `open()` there makes a worker, with the model.
A worker turns paths into values, in their order; the same batches of paths always give the same values.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from xvit.batch.output import text_column
from xvit.config import SINGLE_TASK, DataConfig, as_task_dict, to_dict
from xvit.data.annotations import Sample
from xvit.utils.errors import VideoError, import_optional

if TYPE_CHECKING:
    from xvit.data.tools.check import FileReport
    from xvit.features.storage import Level
    from xvit.inference.predictor import Prediction, Predictor
    from xvit.models.xvit import XViT

Values = dict[str, Any]  # by column


class Worker(Protocol):
    """Does the work of a task, in one process."""

    columns: dict[str, Any]  # Arrow types of the columns that a task adds

    def describe(self) -> dict[str, Any]:
        """What the values are made of, as plain values."""

    def values(self, paths: Sequence[str]) -> Iterator[Values | VideoError]:
        """The values of each video, in order, or the error if it cannot be read."""


class Task(Protocol):
    """The settings of a job.

    `batch_size` videos are computed together; parts hold a multiple of it.
    """

    @property
    def command(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    def open(self) -> Worker:
        """Load the model."""


@dataclass(frozen=True, kw_only=True)
class PredictTask:
    """Classify videos. The arguments are those of `xvit.inference.predictor.Predictor` and of its `predict`.

    Args:
        top_k: number of classes in a row.
    """

    checkpoint: str
    top_k: int = 5
    temporal_views: int = 1
    spatial_views: int = 1
    fps: float | None = None
    num_workers: int = 2
    device: str | None = None
    trust_code: bool = False

    command = "predict"

    @property
    def batch_size(self) -> int:
        """Videos that are computed together."""
        from xvit.inference.predictor import predictor_batch_size

        return predictor_batch_size(self.temporal_views, self.spatial_views)

    def open(self) -> "PredictWorker":
        """Load the model, where the work is done."""
        from xvit.inference.predictor import Predictor

        views = {"temporal_views": self.temporal_views, "spatial_views": self.spatial_views}
        return PredictWorker(self, Predictor(self.checkpoint, device=self.device, trust_code=self.trust_code, **views))


class PredictWorker:
    """See `PredictTask`.

    Columns: labels and scores, best first (for several tasks labels_TASK and scores_TASK); of a calibrated model known
    (known_TASK): whether the video shows one of the classes; times of the frames that the model saw, in seconds, and
    their number; warnings.
    """

    def __init__(self, task: PredictTask, predictor: "Predictor") -> None:
        arrow = import_optional("pyarrow", extra="batch")
        self.task, self.predictor = task, predictor
        self.columns = {"frames": arrow.int32(), "times": arrow.list_(arrow.float64())}
        self.columns["warnings"] = arrow.list_(arrow.string())
        for name in as_task_dict(predictor.class_names):
            self.columns[_column("labels", name)] = arrow.list_(arrow.string())
            self.columns[_column("scores", name)] = arrow.list_(arrow.float32())
        for name in predictor.model.calibration:
            self.columns[_column("known", name)] = arrow.bool_()

    def describe(self) -> dict[str, Any]:
        """What the values are made of."""
        names = ("top_k", "temporal_views", "spatial_views", "fps")
        model = {"model": self.predictor.model_hash(), "clip": to_dict(self.predictor.clip_spec)}
        return model | {name: getattr(self.task, name) for name in names}

    def values(self, paths: Sequence[str]) -> Iterator[Values | VideoError]:
        """The best classes of each video."""
        for result in self.predictor.predict(paths, fps=self.task.fps, num_workers=self.task.num_workers):
            yield result if isinstance(result, VideoError) else self._values(result)

    def _values(self, prediction: "Prediction") -> Values:
        values: Values = {"frames": len(prediction.times), "times": prediction.times}
        values["warnings"] = [text_column(text) for text in prediction.warnings]
        scores = as_task_dict(prediction.scores)
        for name, labels in as_task_dict(prediction.labels).items():
            values[_column("labels", name)] = labels[: self.task.top_k]
            values[_column("scores", name)] = scores[name][: self.task.top_k]
        if prediction.known is not None:
            for name, known in as_task_dict(prediction.known).items():
                values[_column("known", name)] = known
        return values


def _column(name: str, task: str) -> str:
    return name if task == SINGLE_TASK else f"{name}_{task}"


@dataclass(frozen=True, kw_only=True)
class FeaturesTask:
    """Compute the features of videos, one view each. The arguments are those of `xvit.features.extract_features`."""

    checkpoint: str
    level: "Level" = "clip"
    batch_size: int = 16
    num_workers: int = 2
    device: str | None = None

    command = "features"

    def open(self) -> "FeaturesWorker":
        """Load the model, where the work is done."""
        from xvit.models.xvit import XViT
        from xvit.utils.devices import resolve_device

        return FeaturesWorker(self, XViT.from_pretrained(self.checkpoint, device=resolve_device(self.device)).eval())


class FeaturesWorker:
    """See `FeaturesTask`. Columns: features, the values of one video one after another; warnings."""

    def __init__(self, task: FeaturesTask, model: "XViT") -> None:
        from xvit.features.extract import row_shape

        arrow = import_optional("pyarrow", extra="batch")
        self.task, self.model, self.shape = task, model, row_shape(model, task.level)
        self.columns = {
            "features": arrow.list_(arrow.float32(), int(np.prod(self.shape))),
            "warnings": arrow.list_(arrow.string()),
        }

    def describe(self) -> dict[str, Any]:
        """What the values are made of."""
        from xvit.features.extract import describe_model

        return describe_model(self.model, self.task.level) | {
            "shape": list(self.shape),
            "batch_size": self.task.batch_size,
        }

    def values(self, paths: Sequence[str]) -> Iterator[Values | VideoError]:
        """The features of each video."""
        from xvit.data.dataset import VideoDataset
        from xvit.data.loader import make_loader
        from xvit.features.extract import batch_features

        samples = [Sample(path=path, label=None, id=path) for path in paths]
        dataset = VideoDataset(samples=samples, clip_spec=self.model.clip_spec)
        loader = make_loader(dataset, batch_size=self.task.batch_size, num_workers=self.task.num_workers)
        with closing(loader):
            for batch in loader:
                results: dict[int, Values | VideoError] = dict(batch["errors"])
                if indices := batch["indices"].tolist():
                    features = batch_features(self.model, batch, self.task.level)
                    for index, row in zip(indices, features.reshape(len(indices), -1), strict=True):
                        warnings = [text_column(text) for text in batch["warnings"].get(index, ())]
                        results[index] = {"features": row, "warnings": warnings}
                for index in sorted(results):
                    yield results[index]


@dataclass(frozen=True, kw_only=True)
class CheckTask:
    """Check video files. The arguments are those of `xvit.data.tools.check.check_dataset`."""

    num_frames: int = 8
    full: bool = False
    num_workers: int = 2
    decode_timeout: float = DataConfig.decode_timeout

    command, batch_size = "data check", 1

    def open(self) -> "CheckWorker":
        """Start checking, where the work is done."""
        return CheckWorker(self)


class CheckWorker:
    """See `CheckTask`. Columns: frames, frames per second, duration in seconds, width, height, codec, container."""

    def __init__(self, task: CheckTask) -> None:
        arrow = import_optional("pyarrow", extra="batch")
        self.task = task
        whole, real, text = arrow.int64(), arrow.float64(), arrow.string()
        self.columns = {"frames": whole, "fps": real, "duration": real, "width": whole, "height": whole}
        self.columns |= {"codec": text, "container": text}

    def describe(self) -> dict[str, Any]:
        """What the values are made of."""
        return {name: value for name, value in asdict(self.task).items() if name != "num_workers"}

    def values(self, paths: Sequence[str]) -> Iterator[Values | VideoError]:
        """Size and length of each video, or the error: what is wrong with it."""
        from xvit.data.tools.check import check_file, report_killed
        from xvit.utils.parallel import parallel_imap

        check = partial(check_file, full=self.task.full, timeout=self.task.decode_timeout)
        jobs = [[Sample(path=path, label=None, id=path)] for path in paths]
        for report in parallel_imap(check, jobs, num_workers=self.task.num_workers, on_killed=report_killed):
            yield self._values(report)

    def _values(self, report: "FileReport") -> Values | VideoError:
        from xvit.data.tools.check import find_problem

        sample = Sample(path=report.path, label=None, id=report.path)
        if problem := find_problem(sample, report, self.task.num_frames):
            return VideoError(report.path, f"{problem.kind}: {problem.reason}")
        assert report.info is not None
        info = report.info
        return {
            "frames": info.num_frames,
            "fps": info.fps,
            "duration": info.duration,
            "width": info.width,
            "height": info.height,
            "codec": info.codec,
            "container": info.container,
        }
