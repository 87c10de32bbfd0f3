"""The models of the service: their names, what they can do, and the one thread in which each of them runs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from xvit.config import ClassNames
from xvit.export.runtime import ExportedModel
from xvit.inference.frame_stream import ClipScores
from xvit.inference.predictor import Predictor
from xvit.inference.streams import predict_clips
from xvit.serving.batcher import Batcher
from xvit.serving.metrics import Metrics
from xvit.serving.names import split_name
from xvit.serving.places import Places
from xvit.serving.settings import Limits
from xvit.serving.stream_states import StreamEngine, StreamJob, open_engine
from xvit.timeline.scoring import iterate_scores
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    import torch

    from xvit.inference.frame_stream import StreamScores


class ServedModel:
    """A model, its thread and its batches.

    Args:
        name: in requests.
        predictor: of the model.
        limits: for its batches.

    Attributes:
        hash: of its settings and weights.
        executor: the model's only thread.
        engine: runs live streams; None if the model cannot be streamed.
        has_timeline: whether long videos can be scored.
        has_explanations: whether its decisions can be explained.
    """

    def __init__(self, name: str, predictor: Predictor, limits: Limits) -> None:
        self.name, self.predictor, self.model = name, predictor, predictor.model
        self.clip_spec, self.class_names = predictor.clip_spec, predictor.class_names
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=f"xvit-{name}")
        self._max_clips = limits.batch_clips
        self.hash = predictor.model_hash()
        self.engine = self.executor.submit(self._open_engine).result()
        self.has_timeline = self.executor.submit(self._can_score_long_videos).result()
        self.has_explanations = not isinstance(self.model, ExportedModel)
        self._warm_up()

    def open(self, limits: Limits, metrics: Metrics, places: Places) -> None:
        """Make the batchers, in the event loop of the service."""
        self.batcher: Batcher[np.ndarray, ClipScores] = Batcher(
            self._predict,
            self.executor,
            size=len,
            max_size=limits.batch_clips,
            max_wait=limits.batch_wait if limits.batch_clips > 1 else 0.0,
            on_batch=partial(metrics.count_batch, self.name),
            num_expected=lambda: places.used,
        )
        self.stream_batcher: Batcher[StreamJob, StreamScores] = Batcher(
            self._push,
            self.executor,
            size=lambda job: 1,
            max_size=max(limits.streams, 1),
            max_wait=0.0,
            on_batch=lambda streams, seconds: metrics.stream_batches.labels(self.name).observe(streams),
        )

    async def close(self) -> None:
        """End the batches and the thread."""
        await self.batcher.close()
        await self.stream_batcher.close()
        self.executor.shutdown(wait=True, cancel_futures=True)

    @property
    def frame_rate(self) -> float | None:
        """Frames per second that the model sees; None if it samples whole videos, or the frames of a file."""
        spec = self.clip_spec
        return spec.frame_rate / spec.spacing if spec.frame_rate and spec.spacing else None

    @property
    def tasks(self) -> dict[str, list[str]]:
        """The class names of each task."""
        names = self.class_names
        return {task: list(names[task]) for task in names} if isinstance(names, dict) else {"": list(names)}

    def describe(self, *, default: bool) -> dict[str, Any]:
        """The entry of `GET /v1/models`."""
        return {
            "name": self.name,
            "default": default,
            "classes": _plain(self.class_names),
            "multi_label": self.predictor.multi_label,
            "num_frames": self.clip_spec.num_frames,
            "image_size": self.clip_spec.image_size,
            "frame_rate": self.frame_rate,
            "predict": True,
            "timeline": self.has_timeline,
            "stream": self.engine is not None,
            "explain": self.has_explanations,
        }

    def _open_engine(self) -> StreamEngine | None:
        try:
            return open_engine(self.model)
        except XViTError:  # it cannot be streamed exactly
            return None

    def _can_score_long_videos(self) -> bool:
        try:
            iterate_scores(self.model, [])
        except XViTError:
            return False
        return self.clip_spec.spacing is not None

    def _warm_up(self) -> None:
        """The first call of a model is slow."""
        T, S = self.clip_spec.num_frames, self.clip_spec.image_size
        self.executor.submit(self._predict, [np.zeros((1, T, 3, S, S), np.uint8)]).result()

    def _predict(self, videos: list[np.ndarray]) -> list[ClipScores]:
        """Scores of videos (V, T, C, S, S), one row for each, averaged over their views; in the model's thread."""
        clips = np.concatenate(videos)
        starts = range(0, len(clips), self._max_clips)
        parts = [predict_clips(self.model, clips[start : start + self._max_clips]) for start in starts]
        scores, margins = (
            {task: np.concatenate([part[task] for part in kind]) for task in kind[0]}
            for kind in zip(*parts, strict=True)
        )
        ends = np.cumsum([len(views) for views in videos]).tolist()
        spans = [slice(end - len(views), end) for views, end in zip(videos, ends, strict=True)]
        return [
            ClipScores(
                *({task: x[span].mean(axis=0, keepdims=True) for task, x in kind.items()} for kind in (scores, margins))
            )
            for span in spans
        ]

    def _push(self, jobs: list[StreamJob]) -> "list[StreamScores | Exception]":
        assert self.engine is not None
        return self.engine.push(jobs)


def load_models(
    sources: Sequence[str],
    limits: Limits,
    *,
    device: "str | torch.device | None" = None,
    trust_code: bool = False,
) -> dict[str, ServedModel]:
    """Load models by name; the first one is the default.

    Args:
        sources: of each model: what `Predictor` takes, or NAME= and that. Without a name it is that of the folder, or
            of the folder around `best` or `last`.

    Raises:
        XViTError: a model cannot be loaded; two have the same name; a name with other characters than letters, digits
            and ._-
    """
    named: dict[str, str] = {}
    for text in sources:
        name, source = split_name(text)
        if name in named:
            raise XViTError(f'two models are named "{name}": write NAME={source} to name one of them')
        named[name] = source
    return {
        name: ServedModel(name, Predictor(source, device=device, trust_code=trust_code), limits)
        for name, source in named.items()
    }


def _plain(class_names: ClassNames) -> Any:
    if isinstance(class_names, dict):
        return {task: list(names) for task, names in class_names.items()}
    return list(class_names)
