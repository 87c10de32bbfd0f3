"""A video file in, a Prediction out; the same scores that evaluation counts."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, as_task_dict, unwrap_single_task
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset, lacking_shared_memory, make_loader
from xvit.data.transforms import normalize
from xvit.export.runtime import ExportedModel, is_exported, read_manifest, takes_device
from xvit.models.profiling import model_hash
from xvit.models.xvit import XViT
from xvit.utils.devices import default_device, resolve_device
from xvit.utils.errors import VideoError, XViTError, check_range

_logger = logging.getLogger("xvit")
_CLIPS_AT_ONCE = 8
_SHOWN = 5  # classes of a printed prediction


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of one video, best class first. For several tasks, labels and scores are dicts of tasks.

    Args:
        path: the video.
        labels: names of all classes, from the highest score down.
        scores: their scores, in [0, 1], adding up to 1 unless the model is multi-label.
        times: seconds of the frames looked at, ascending.

    Raises:
        XViTError: labels and scores that do not pair up, or scores that rise.
    """

    path: str
    labels: tuple[str, ...] | dict[str, tuple[str, ...]]
    scores: tuple[float, ...] | dict[str, tuple[float, ...]]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        labels, scores = as_task_dict(self.labels), as_task_dict(self.scores)
        if labels.keys() != scores.keys():
            raise XViTError(f"labels of tasks {list(labels)}, scores of tasks {list(scores)}: expected the same")
        for task in labels:
            if len(labels[task]) != len(scores[task]) or list(scores[task]) != sorted(scores[task], reverse=True):
                raise XViTError(
                    f"{len(labels[task])} labels, scores {scores[task]}: expected one each, from the highest down"
                )

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.times)} frames, {self.times[0]:.2f} to {self.times[-1]:.2f} s"]
        scores = as_task_dict(self.scores)
        for task, labels in as_task_dict(self.labels).items():
            if task != SINGLE_TASK:
                lines.append(f"  {task}")
            width = max(map(len, labels[:_SHOWN]))
            for label, score in list(zip(labels, scores[task], strict=True))[:_SHOWN]:
                lines.append(f"  {label:<{width}}  {100 * score:5.1f} %")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


class Predictor:
    """A trained model, ready for video files.

    Args:
        model: a checkpoint directory, its name on the Hugging Face Hub, the directory of an exported model
            (`xvit export`), or a model (which is put in eval mode).
        device: where the model runs, such as cuda:1; by default the accelerator if there is one, for a model where it
            is.
        temporal_views: clips taken along the video.
        spatial_views: crops along the longer side of each clip. The scores of all views are averaged.
        trust: open an exported torch.export program, which can hold any code.

    Raises:
        XViTError: not a checkpoint, no such device, a number out of its range.
    """

    def __init__(
        self,
        model: str | Path | XViT | ExportedModel,
        *,
        device: str | torch.device | None = None,
        temporal_views: int = 1,
        spatial_views: int = 1,
        trust_code: bool = False,
    ) -> None:
        check_range("temporal_views", temporal_views, 1)
        check_range("spatial_views", spatial_views, 1)
        if not isinstance(model, XViT | ExportedModel):
            model = open_model(model, device=device, trust_code=trust_code)
        elif device is not None and isinstance(model, XViT):
            model.to(resolve_device(device))
        elif device is not None and resolve_device(device) != model.device:
            raise XViTError(f"device={str(device)!r}: the exported model was opened on {str(model.device)!r}")
        self.model = model.eval() if isinstance(model, XViT) else model
        self.clip_spec, self.class_names = model.clip_spec, model.class_names
        self.multi_label = model.config.multi_label
        self.device = model.device
        self.temporal_views = temporal_views
        self.spatial_views = spatial_views

    def __call__(self, path: str | Path) -> Prediction:
        """Classify one video.

        Raises:
            VideoError: a file that cannot be read.
        """
        answer = next(self.predict([path]))
        if isinstance(answer, VideoError):
            raise answer
        return answer

    def predict(self, paths: Sequence[str | Path], *, num_workers: int = 0) -> Iterator[Prediction | VideoError]:
        """Classify many videos, several at a time, the next ones being read while the model works.

        Args:
            paths: the videos.
            workers: processes that read them; 0 reads in this one, where the model waits for it.

        Yields:
            For each path in turn its prediction, or why it cannot be read.
        """
        dataset = VideoDataset(
            samples=[Sample(path=str(path), label=None, id=str(path)) for path in paths],
            spec=self.clip_spec,
            temporal_views=self.temporal_views,
            spatial_views=self.spatial_views,
        )
        at_once = max(_CLIPS_AT_ONCE // (self.temporal_views * self.spatial_views), 1)
        if num_workers and (lack := lacking_shared_memory(dataset, batch_size=at_once, num_workers=num_workers)):
            _logger.warning("%s. Videos are read by this process, one by one", lack)
            num_workers = 0
        answers: dict[int, Prediction | VideoError] = {}
        for batch in make_loader(dataset, batch_size=at_once, num_workers=num_workers):
            answers |= batch["errors"]
            if len(batch["indices"]):
                scores = {task: values.cpu() for task, values in as_task_dict(self.scores(batch["pixels"])).items()}
                for row, (index, times) in enumerate(zip(batch["indices"].tolist(), batch["times"], strict=True)):
                    of_video = {task: values[row] for task, values in scores.items()}
                    answers[index] = self._prediction(str(paths[index]), of_video, times)
            for index in sorted(answers):
                yield answers.pop(index)

    def model_hash(self) -> str:
        """Hash of the model's settings and weights, or of an exported model's files: 16 hexadecimal digits."""
        return model_hash(self.model) if isinstance(self.model, XViT) else self.model.model_hash()

    def _prediction(self, path: str, scores: dict[str, Tensor], times: tuple[float, ...]) -> Prediction:
        names = as_task_dict(self.class_names)
        best = {task: ranked(values, names[task]) for task, values in scores.items()}
        return Prediction(
            path=path,
            labels=unwrap_single_task({task: labels for task, (labels, _) in best.items()}),
            scores=unwrap_single_task({task: values for task, (_, values) in best.items()}),
            times=times,
        )

    @torch.inference_mode()
    def scores(self, pixels: Tensor) -> Tensor | dict[str, Tensor]:
        """Score clips: softmax over the classes (sigmoid of each, if multi-label), averaged over the views.

        Args:
            pixels: (B, V, T, C, S, S) uint8. Clips go through the model at most max(B, 8) at a time: more views take
                more time, not more memory.

        Returns:
            (B, classes) float32; for several tasks a dict of them.

        Raises:
            XViTError: a wrong shape or type.
        """
        if pixels.ndim != 6:
            raise XViTError(f"pixels of shape {tuple(pixels.shape)}: expected 6 dimensions (B, V, T, C, S, S)")
        B, V = pixels.shape[:2]
        pixels = pixels.contiguous()  # whatever process made them: the last bits depend on the memory's layout
        chunks = pixels.flatten(0, 1).split(max(B, _CLIPS_AT_ONCE))  # (B, V, ...) -> (B V, ...)
        logits: list[Any] = [self.model(normalize(chunk, self.clip_spec, self.device)) for chunk in chunks]
        if isinstance(logits[0], dict):
            return {task: self._mean_scores([chunk[task] for chunk in logits], B, V) for task in logits[0]}
        return self._mean_scores(logits, B, V)

    def _mean_scores(self, logits: list[Tensor], B: int, V: int) -> Tensor:
        scores = self.model.probabilities(torch.cat(logits))  # (B V, classes)
        return scores.unflatten(0, (B, V)).mean(dim=1)


def open_model(
    source: str | Path, *, device: str | torch.device | None = None, trust_code: bool = False
) -> XViT | ExportedModel:
    """A trained model or an exported one, whichever is there; see `Predictor`."""
    if not is_exported(source):
        return XViT.from_pretrained(source, device=device or default_device())
    usable = takes_device(read_manifest(Path(source)).format, default_device())
    return ExportedModel(source, device=device or (default_device() if usable else "cpu"), trust_code=trust_code)


def ranked(scores: Tensor, names: list[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and scores (classes,), from the highest score down."""
    values, order = scores.sort(descending=True, stable=True)
    return tuple(names[i] for i in order.tolist()), tuple(values.tolist())
