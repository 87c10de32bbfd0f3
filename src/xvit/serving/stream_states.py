"""Live streams of one model: an exact state for each, and the pushes that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from xvit.export.runtime import ExportedModel
from xvit.inference.exported import ExportedStream
from xvit.inference.frame_stream import StreamScores

if TYPE_CHECKING:
    from xvit.models.xvit import XViT


@dataclass(frozen=True, eq=False)
class StreamJob:
    """New frames of one live stream.

    Args:
        state: of the stream, from `StreamEngine.open`.
        views: (n, C, S, S) uint8; None ends the stream.
    """

    state: Any
    views: np.ndarray | None


class StreamEngine(Protocol):
    """Runs the live streams of one model, in the model's thread."""

    def open(self) -> Any:
        """The state of a new stream."""

    def push(self, jobs: Sequence[StreamJob]) -> list[StreamScores | Exception]:
        """Add the frames of each job to its stream; the scores that became possible. No stream has two jobs."""


def open_engine(model: "XViT | ExportedModel") -> StreamEngine:
    """Raises `XViTError` for a model that cannot be streamed."""
    if isinstance(model, ExportedModel):
        return _ExportedEngine(model)
    return _TrainedEngine(model)


class _ExportedEngine:
    """Streams of an exported step, one after the other: its runtimes are compiled for one stream."""

    def __init__(self, model: ExportedModel) -> None:
        self.model = model
        self.open()  # raises the error of a model that cannot be streamed

    def open(self) -> ExportedStream:
        return ExportedStream(self.model)

    def push(self, jobs: Sequence[StreamJob]) -> list[StreamScores | Exception]:
        results: list[StreamScores | Exception] = []
        for job in jobs:
            try:
                results.append(job.state.flush() if job.views is None else job.state.push(job.views))
            except Exception as error:  # of this stream alone
                results.append(error)
        return results


class _TrainedEngine:
    """Streams of a trained model: those that wait together are pushed in one batch."""

    def __init__(self, model: "XViT") -> None:
        from xvit.models.stream_batches import StreamBatch

        self.model, self._batch = model, StreamBatch(model)

    def open(self) -> Any:
        from xvit.models.stream_batches import StreamState

        return StreamState()

    def push(self, jobs: Sequence[StreamJob]) -> list[StreamScores | Exception]:
        import torch

        from xvit.data.transforms import normalize
        from xvit.inference.trained import stream_scores

        results: dict[int, StreamScores | Exception] = {}
        pushes = [(index, job.state, job.views) for index, job in enumerate(jobs) if job.views is not None]
        frames = [
            normalize(torch.from_numpy(views)[None], self.model.clip_spec, self.model.device) for _, _, views in pushes
        ]
        outputs = self._batch.push([state for _, state, _ in pushes], frames)
        for (index, _, _), output in zip(pushes, outputs, strict=True):
            results[index] = stream_scores(self.model, output)
        for index, job in enumerate(jobs):
            if job.views is None:
                results[index] = self._flush(job.state)
        return [results[index] for index in range(len(jobs))]

    def _flush(self, state: Any) -> StreamScores:
        if not state.size:
            scores = {t: np.empty((0, classes), np.float32) for t, classes in self.model.config.tasks.items()}
            return StreamScores([], scores, {task: np.empty(0) for task in self.model.calibration})
        from xvit.inference.trained import stream_scores

        return stream_scores(self.model, self._batch.flush(state))
