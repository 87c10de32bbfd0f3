"""`Predictor` classifies video files. Evaluation uses the same probabilities.

Nothing here imports torch until a model needs it: an exported model is read for, run and scored in NumPy.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict, unwrap_single_task
from xvit.data.annotations import Sample
from xvit.data.arrays import ArrayDataset
from xvit.data.loader import make_loader
from xvit.export.backends import as_array, as_tensor, device_name
from xvit.export.manifest import is_exported
from xvit.export.runtime import ExportedModel
from xvit.inference import exported
from xvit.inference.frame_stream import ClipScores, StreamScores
from xvit.inference.inputs import UNNAMED, Video, make_views, sample_array, video_path
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.text import printable

if TYPE_CHECKING:
    import torch

    from xvit.models.xvit import XViT

Labels = tuple[str, ...] | dict[str, tuple[str, ...]]  # best first; a dict for several tasks
Scores = tuple[float, ...] | dict[str, tuple[float, ...]]
Known = bool | dict[str, bool] | None

_BATCH_CLIPS = 8
_MAX_PRINTED = 5  # classes in str(prediction)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one video, best class first. With several tasks, labels and scores are dicts of tasks.

    Args:
        path: the video.
        labels: all class names, in order of descending score.
        scores: their scores, in [0, 1]; they sum to 1 unless the model is multi-label.
        times: timestamps of the frames used, in seconds, ascending.
        warnings: what is wrong with the video, such as "3 damaged frames"; empty if nothing is.
        known: whether it shows one of the classes, by the model's calibration; None if the model has none.

    Raises:
        XViTError: labels and scores differ in number or in tasks, or the scores ascend.
    """

    path: str
    labels: Labels
    scores: Scores
    times: tuple[float, ...]
    warnings: tuple[str, ...] = ()
    known: Known = None

    def __post_init__(self) -> None:
        labels, scores = as_task_dict(self.labels), as_task_dict(self.scores)
        if labels.keys() != scores.keys():
            raise XViTError(f"labels of tasks {list(labels)}, scores of tasks {list(scores)}: expected the same tasks")
        for task in labels:
            if len(labels[task]) != len(scores[task]) or list(scores[task]) != sorted(scores[task], reverse=True):
                raise XViTError(
                    f"{len(labels[task])} labels, scores {scores[task]}: expected one score per label, descending"
                )

    def __str__(self) -> str:
        lines = [f"{printable(self.path)}: {len(self.times)} frames, {self.times[0]:.2f} to {self.times[-1]:.2f} s"]
        scores = as_task_dict(self.scores)
        for task, labels in as_task_dict(self.labels).items():
            if task != SINGLE_TASK:
                lines.append(f"  {printable(task)}")
            shown = list(map(printable, labels[:_MAX_PRINTED]))
            width = max(map(len, shown))
            if is_rejected(self.known, task):
                lines.append(f"  none of these (nearest: {shown[0]}, {100 * scores[task][0]:.0f} %)")
            for label, score in zip(shown, scores[task], strict=False):
                lines.append(f"  {label:<{width}}  {100 * score:5.1f} %")
        lines += [f"  warning: {printable(warning)}" for warning in self.warnings]
        return "\n".join(lines)

    @property
    def label(self) -> str | dict[str, str | None] | None:
        """The best class; None if the video shows none of the classes."""
        return unwrap_single_task(
            {
                task: None if is_rejected(self.known, task) else names[0]
                for task, names in as_task_dict(self.labels).items()
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON. Without `known` if the model is not calibrated."""
        return without_unknown(asdict(self))


class Predictor:
    """Classifies videos with a trained model.

    Args:
        model: a checkpoint directory, hf://owner/name on the Hugging Face Hub, the name of a model that comes with xvit
            ("motion"), the directory of an exported model (`xvit export`), or a model object (it is put in eval mode).
        device: where the model runs, such as cuda:1. By default, a model object stays on its device, and a model that
            is loaded goes to the accelerator if there is one.
        temporal_views: clips along each video.
        spatial_views: crops along the longer side of each clip. The probabilities are averaged over all views.
        trust_code: load exported torch.export programs, which can contain arbitrary code.

    Raises:
        XViTError: the model cannot be loaded or has no classes, the device is not available, a number is out of range.
    """

    def __init__(
        self,
        model: "str | Path | XViT | ExportedModel",
        *,
        device: "str | torch.device | None" = None,
        temporal_views: int = 1,
        spatial_views: int = 1,
        trust_code: bool = False,
    ) -> None:
        check_range("temporal_views", temporal_views, 1)
        check_range("spatial_views", spatial_views, 1)
        if isinstance(model, str | Path):
            model = open_model(model, device=device, trust_code=trust_code)
        elif device is not None and not isinstance(model, ExportedModel):
            from xvit.utils.devices import resolve_device

            model.to(resolve_device(device))
        elif device is not None and device_name(device) != model.device:
            raise XViTError(f"device={str(device)!r}: the exported model was loaded on {str(model.device)!r}")
        if not all(as_task_dict(model.class_names).values()):
            raise XViTError("the model has no classes (num_classes=0), so there is nothing to predict; train it first")
        self.model = model if isinstance(model, ExportedModel) else model.eval()
        self.clip_spec, self.class_names = model.clip_spec, model.class_names
        self.multi_label = model.config.multi_label
        self.device = model.device
        self.temporal_views, self.spatial_views = temporal_views, spatial_views

    def __call__(self, video: Video, *, fps: float | None = None) -> Prediction:
        """Classify one video.

        Args:
            video: a path, the bytes of a video file, a binary file object that holds one, or frames (N, H, W, 3),
                uint8 RGB.
            fps: frames per second of an array of frames, which needs it, or of a folder of frames, 30 if None.

        Raises:
            VideoError: the video cannot be read.
            XViTError: no video; an array of another shape or type, or without `fps`.
        """
        if isinstance(video, np.ndarray):
            return self._predict_array(video, fps)
        with video_path(video) as (path, name):
            prediction = next(self.predict([path], fps=fps))
            if isinstance(prediction, VideoError):
                raise prediction
        return replace(prediction, path=name)

    def _predict_array(self, frames: np.ndarray, fps: float | None) -> Prediction:
        clip = sample_array(frames, self.clip_spec, temporal_views=self.temporal_views, fps=fps)
        options = {"temporal_views": self.temporal_views, "spatial_views": self.spatial_views}
        pixels: Any = make_views(self.model, clip, **options)[None]
        if not isinstance(self.model, ExportedModel):
            pixels = as_tensor(pixels, "cpu")
        times = tuple(np.unique(clip.times).tolist())
        ranked = rank_classes(self.predict_scores(pixels), 0, self.class_names)
        return Prediction(path=UNNAMED, times=times, warnings=clip.warnings, **ranked._asdict())

    def predict(
        self, paths: Sequence[str | Path], *, fps: float | None = None, num_workers: int = 0
    ) -> Iterator[Prediction | VideoError]:
        """Classify many videos in batches.

        Args:
            paths: the videos.
            fps: frames per second of folders of frames, 30 if None; a file has its own rate.
            num_workers: processes that read videos while the model runs; 0 reads in this process, between batches.

        Yields:
            For each path, in order, its prediction, or the error if it cannot be read.
        """
        dataset = self.dataset_class(
            samples=[Sample(path=str(path), label=None, id=str(path), fps=fps) for path in paths],
            clip_spec=self.clip_spec,
            temporal_views=self.temporal_views,
            spatial_views=self.spatial_views,
        )
        batch_size = predictor_batch_size(self.temporal_views, self.spatial_views)
        with closing(make_loader(dataset, batch_size=batch_size, num_workers=num_workers)) as loader:
            for batch in loader:
                results: dict[int, Prediction | VideoError] = dict(batch["errors"])
                if len(batch["indices"]):
                    scores = self.predict_scores(batch["pixels"])
                    for row, (index, times) in enumerate(zip(batch["indices"].tolist(), batch["times"], strict=True)):
                        results[index] = Prediction(
                            path=str(paths[index]),
                            times=times,
                            warnings=batch["warnings"].get(index, ()),
                            **rank_classes(scores, row, self.class_names)._asdict(),
                        )
                for index in sorted(results):
                    yield results[index]

    def model_hash(self) -> str:
        """Hash of the model: of all that its predictions depend on. See `model_hash`."""
        return model_hash(self.model)

    @property
    def dataset_class(self) -> Any:
        """What reads videos for the model: `ArrayDataset` if it runs without torch, else `VideoDataset`."""
        if isinstance(self.model, ExportedModel) and self.model.manifest.format != "torch":
            return ArrayDataset
        from xvit.data.dataset import VideoDataset

        return VideoDataset

    def predict_probabilities(self, pixels: Any) -> Any:
        """Class probabilities of clips: softmax (sigmoid if multi-label), averaged over the views.

        Those of a calibrated model are softmax(logits / temperature).

        Args:
            pixels: (B, V, T, C, S, S) uint8: a tensor, or for an exported model also a NumPy array. The model processes
                at most max(B, 8) clips at a time, so more views take more time but not more memory.

        Returns:
            (B, classes) float32, of the same kind as the pixels; a dict of them for several tasks.

        Raises:
            XViTError: wrong shape or dtype.
        """
        scores: Any = self._scores(pixels)[0]
        if isinstance(self.model, ExportedModel) and not isinstance(pixels, np.ndarray):
            scores = {task: as_tensor(x, pixels.device) for task, x in scores.items()}
        return unwrap_single_task(scores)

    def predict_scores(self, pixels: Any) -> ClipScores:
        """The class probabilities, in NumPy, and how far each clip is from being rejected.

        Args:
            pixels: as for `predict_probabilities`.
        """
        scores, margins = self._scores(pixels)
        return ClipScores({task: as_array(values) for task, values in scores.items()}, margins)

    def _scores(self, pixels: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if pixels.ndim != 6:
            raise XViTError(f"pixels of shape {tuple(pixels.shape)}: expected 6 dimensions (B, V, T, C, S, S)")
        max_clips = max(len(pixels), _BATCH_CLIPS)
        if isinstance(self.model, ExportedModel):
            return exported.predict_scores(self.model, as_array(pixels), max_clips)
        from xvit.inference.trained import predict_scores

        return predict_scores(self.model, pixels, max_clips)


def predictor_batch_size(temporal_views: int, spatial_views: int) -> int:
    """Number of videos that `Predictor.predict` passes through the model together; a power of 2 for up to 4 views."""
    return max(_BATCH_CLIPS // (temporal_views * spatial_views), 1)


def open_model(
    source: str | Path, *, device: "str | torch.device | None" = None, trust_code: bool = False
) -> "XViT | ExportedModel":
    """Load a checkpoint or an exported model; the arguments are those of `Predictor`."""
    if is_exported(source):
        return ExportedModel(source, device=device, trust_code=trust_code)
    from xvit.models.xvit import XViT
    from xvit.utils.devices import default_device

    return XViT.from_pretrained(source, device=device or default_device())


def model_hash(model: "XViT | ExportedModel") -> str:
    """Hash of a model's settings and weights, or of an exported model's files: 16 hexadecimal digits.

    That of a calibrated model goes on with 8 digits for the calibration.
    """
    if isinstance(model, ExportedModel):
        found = model.model_hash()
    else:
        from xvit.models import profiling

        found = profiling.model_hash(model)
    if not model.calibration:
        return found
    calibration = json.dumps({task: asdict(values) for task, values in model.calibration.items()}, sort_keys=True)
    return f"{found}-{hashlib.sha256(calibration.encode()).hexdigest()[:8]}"


class Ranking(NamedTuple):
    """The classes of one clip, best first, and whether it shows one of them; see `Prediction`."""

    labels: Labels
    scores: Scores
    known: Known


def rank_classes(clips: ClipScores | StreamScores, row: int, class_names: ClassNames) -> Ranking:
    """The ranking of the clip in one row of the scores."""
    names, scores = as_task_dict(class_names), {task: values[row] for task, values in clips.scores.items()}
    order = {task: np.argsort(-values, kind="stable") for task, values in scores.items()}
    labels = {task: tuple(names[task][index] for index in indices) for task, indices in order.items()}
    ordered = {task: tuple(scores[task][indices].tolist()) for task, indices in order.items()}
    known = {task: bool(values[row] >= 0) for task, values in clips.margins.items()}
    return Ranking(
        unwrap_single_task(labels), unwrap_single_task(ordered), unwrap_single_task(known) if known else None
    )


def choose_labels(
    ranking: Ranking, *, moving: bool, threshold: float, ignore: Collection[str]
) -> str | dict[str, str | None] | None:
    """The label of a moment of a stream: its best class, or None if nothing happens that has a class.

    Args:
        ranking: the classes at that moment.
        moving: whether anything moves.
        threshold: lowest score of a label.
        ignore: classes that are no labels.
    """
    scores, labels = as_task_dict(ranking.scores), dict[str, str | None]()
    for task, names in as_task_dict(ranking.labels).items():
        shown = moving and scores[task][0] >= threshold and names[0] not in ignore
        labels[task] = names[0] if shown and not is_rejected(ranking.known, task) else None
    return unwrap_single_task(labels)


def is_rejected(known: Known, task: str) -> bool:
    """Whether a clip shows none of the classes of a task."""
    return known is not None and not as_task_dict(known)[task]


def without_unknown(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a prediction without `known`, if the model is not calibrated."""
    return {name: value for name, value in values.items() if name != "known" or value is not None}
