"""The interface of streams, whatever runs the model."""

from typing import NamedTuple, Protocol

import numpy as np


class ClipScores(NamedTuple):
    """The scores of n clips for each task."""

    scores: dict[str, np.ndarray]  # (n, classes), float32
    margins: dict[str, np.ndarray]  # (n,), below 0: none of the classes; no tasks if the model is not calibrated


class StreamScores(NamedTuple):
    """The m predictions that a push completed."""

    indices: list[int]  # of their frames, counted from 0
    scores: dict[str, np.ndarray]  # for each task (m, classes), float32
    margins: dict[str, np.ndarray]  # as in `ClipScores`, (m,)


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
