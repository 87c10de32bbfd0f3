"""The interface of streams, whatever runs the model."""

from typing import NamedTuple, Protocol

import numpy as np


class StreamScores(NamedTuple):
    """The m predictions that a push completed."""

    indices: list[int]  # of their frames, counted from 0
    scores: dict[str, np.ndarray]  # for each task (m, classes), float32


class FrameStream(Protocol):
    """A model on one endless video, frame by frame."""

    latency_frames: int  # how many frames a prediction waits for

    @property
    def num_reused(self) -> int:
        """Frames of the whole run for which no layer ran, because they repeat those before."""

    def push(self, views: np.ndarray) -> StreamScores:
        """Add frames (n, C, S, S), uint8; returns the predictions that became possible."""

    def flush(self) -> StreamScores:
        """End the video; returns the predictions of the frames that were still waiting for later ones."""

    def reset(self) -> None:
        """Forget all frames: the next one is the first of another video."""
