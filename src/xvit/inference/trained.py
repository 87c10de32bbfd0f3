"""Scores of clips and streams from a trained model, in torch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from xvit.config import as_task_dict
from xvit.data.transforms import normalize
from xvit.export.backends import as_array
from xvit.inference.frame_stream import StreamScores
from xvit.models.streaming import Stream, StreamOutput
from xvit.models.xvit import XViT


@torch.inference_mode()
def predict_scores(model: XViT, pixels: Tensor, max_clips: int) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Class probabilities and margins of clips for each task, averaged over their views; see `ClipScores`.

    Args:
        model: runs on at most `max_clips` clips at a time.
        pixels: (B, V, T, C, S, S) uint8.
        max_clips: the number of clips.

    Returns:
        The probabilities (B, classes), float32, on the model's device; the margins (B,), in NumPy.
    """
    B, V = pixels.shape[:2]
    pixels = pixels.contiguous()  # the last bits of the results depend on the memory layout
    chunks = pixels.flatten(0, 1).split(max_clips)  # (B, V, ...) -> (B V, ...)
    outputs = [as_task_dict(model(normalize(chunk, model.clip_spec, model.device))) for chunk in chunks]
    logits = {task: torch.cat([chunk[task] for chunk in outputs]) for task in outputs[0]}
    probabilities = {task: model.probabilities(x, task) for task, x in logits.items()}
    margins = margins_of(model, logits)
    return (
        {task: x.unflatten(0, (B, V)).mean(dim=1) for task, x in probabilities.items()},
        {task: x.reshape(B, V).mean(axis=1) for task, x in margins.items()},
    )


def margins_of(model: XViT, logits: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The margins (n,) of logits (n, classes) for each task; see `ClipScores`."""
    return {task: c.margins(as_array(logits[task].float())) for task, c in model.calibration.items()}


def stream_scores(model: XViT, output: StreamOutput) -> StreamScores:
    """The scores of what a single stream returned."""
    logits = {task: x[0] for task, x in as_task_dict(output.logits).items()}  # (m, classes)
    scores = {task: model.probabilities(x, task).cpu().numpy() for task, x in logits.items()}
    return StreamScores(output.indices, scores, margins_of(model, logits))


class TrainedStream:
    """The `FrameStream` of a model that can be streamed. See `xvit.models.streaming.Stream` for the arguments."""

    def __init__(self, model: XViT, *, predict_every: int = 1, unchanged_threshold: float | None = None) -> None:
        self.model = model
        self.stream = Stream(model, predict_every=predict_every, unchanged_threshold=unchanged_threshold)
        self.latency_frames = self.stream.latency_frames
        self._num_reused = 0  # before the last reset

    def push(self, views: np.ndarray) -> StreamScores:
        """See `FrameStream`."""
        frames = torch.from_numpy(views)[None]  # (1, n, C, S, S)
        output = self.stream.push(normalize(frames, self.model.clip_spec, self.model.device))
        return stream_scores(self.model, output)

    def flush(self) -> StreamScores:
        """See `FrameStream`."""
        return stream_scores(self.model, self.stream.flush())

    @property
    def num_reused(self) -> int:
        """See `FrameStream`."""
        return self._num_reused + self.stream.num_reused

    def reset(self) -> None:
        """See `FrameStream`."""
        self._num_reused += self.stream.num_reused
        self.stream.reset()
