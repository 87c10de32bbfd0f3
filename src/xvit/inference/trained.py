"""Scores of clips and streams from a trained model, in torch."""

import numpy as np
import torch
from torch import Tensor

from xvit.config import as_task_dict, unwrap_single_task
from xvit.data.transforms import normalize
from xvit.inference.frame_stream import StreamScores
from xvit.models.streaming import Stream, StreamOutput
from xvit.models.xvit import XViT


@torch.inference_mode()
def predict_probabilities(model: XViT, pixels: Tensor, max_clips: int) -> Tensor | dict[str, Tensor]:
    """Class probabilities of clips, averaged over their views; see `Predictor.predict_probabilities`.

    Args:
        model: runs on at most `max_clips` clips at a time.
        pixels: (B, V, T, C, S, S) uint8.
        max_clips: the number of clips.

    Returns:
        (B, classes) float32, on the model's device; a dict of them for several tasks.
    """
    B, V = pixels.shape[:2]
    pixels = pixels.contiguous()  # the last bits of the results depend on the memory layout
    chunks = pixels.flatten(0, 1).split(max_clips)  # (B, V, ...) -> (B V, ...)
    logits = [as_task_dict(model(normalize(chunk, model.clip_spec, model.device))) for chunk in chunks]
    probabilities = {task: model.probabilities(torch.cat([chunk[task] for chunk in logits])) for task in logits[0]}
    return unwrap_single_task({task: x.unflatten(0, (B, V)).mean(dim=1) for task, x in probabilities.items()})


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
        return self._scores(self.stream.push(normalize(frames, self.model.clip_spec, self.model.device)))

    def flush(self) -> StreamScores:
        """See `FrameStream`."""
        return self._scores(self.stream.flush())

    @property
    def num_reused(self) -> int:
        """See `FrameStream`."""
        return self._num_reused + self.stream.num_reused

    def reset(self) -> None:
        """See `FrameStream`."""
        self._num_reused += self.stream.num_reused
        self.stream.reset()

    def _scores(self, output: StreamOutput) -> StreamScores:
        tasks = as_task_dict(output.logits)
        return StreamScores(
            output.indices, {task: self.model.probabilities(x[0]).cpu().numpy() for task, x in tasks.items()}
        )
