"""Scores of clips and streams from an exported model, in NumPy: the runtimes of exported models need no torch."""

import numpy as np

from xvit.config import as_task_dict, unwrap_single_task
from xvit.data.arrays import normalize
from xvit.export.runtime import ExportedModel
from xvit.inference.frame_stream import StreamScores
from xvit.utils.errors import check_range


def predict_probabilities(
    model: ExportedModel, pixels: np.ndarray, max_clips: int
) -> np.ndarray | dict[str, np.ndarray]:
    """Class probabilities of clips, averaged over their views; see `Predictor.predict_probabilities`.

    Args:
        model: runs on at most `max_clips` clips at a time.
        pixels: (B, V, T, C, S, S) uint8.
        max_clips: the number of clips.

    Returns:
        (B, classes) float32; a dict of them for several tasks.
    """
    B, V = pixels.shape[:2]
    clips = pixels.reshape(B * V, *pixels.shape[2:])
    chunks = [clips[start : start + max_clips] for start in range(0, max(B * V, 1), max_clips)]
    outputs = [as_task_dict(model(_to_input(chunk, model))) for chunk in chunks]
    probabilities = {
        task: model.probabilities(np.concatenate([chunk[task] for chunk in outputs])) for task in model.config.tasks
    }
    return unwrap_single_task({task: x.reshape(B, V, -1).mean(axis=1) for task, x in probabilities.items()})


def _to_input(clips: np.ndarray, model: ExportedModel) -> np.ndarray:
    """The program's input for clips (n, T, C, S, S) in uint8; as raw frames, resizing does not change them."""
    return clips.transpose(0, 1, 3, 4, 2) if model.manifest.raw_frames else normalize(clips, model.clip_spec)


class ExportedStream:
    """The `FrameStream` of an exported streaming step. Its state is not copied from frame to frame.

    A picture that stands still costs nothing: once the program would only repeat itself, it is not run, and the answer
    repeats bit by bit. That is so after r + T equal frames, with r = w L for L layers that mix:

        the output of layer i at frame t depends on the frames t - w i .. t: it reads its input at t - w .. t
        so the vector of frame t depends on the frames           t - r         .. t
        what layer L keeps, its input at t - w + 1 .. t, on      t - r + 1     .. t
        what the head keeps, the last T - 1 vectors, on          t - r - T + 2 .. t

    So the state after a frame depends on the latest r + T - 1 frames. After r + T equal frames, the last of them was
    computed from a state that it left unchanged; the next equal frame would be computed from the same one.

    Args:
        model: an export with a streaming step.
        predict_every: predict at each frame (1), or at every second, third, ... one.

    Attributes:
        frames_to_settle: equal frames, r + T, after which the program is not run again while they stay equal.

    Raises:
        XViTError: an export that cannot be streamed.
    """

    latency_frames = 0

    def __init__(self, model: ExportedModel, *, predict_every: int = 1) -> None:
        check_range("predict_every", predict_every, 1)
        self.model, self.predict_every = model, predict_every
        self.frames_to_settle = model.manifest.reach + model.config.num_frames
        self.num_reused = 0
        self._stepper = model.open_stepper()
        self._start()

    def _start(self) -> None:
        self._num_frames = 0
        self._view: np.ndarray | None = None  # the latest frame
        self._num_equal = 0  # how many of the latest frames equal it
        self._scores: dict[str, np.ndarray] = {}  # of the latest frame: (1, classes)

    def reset(self) -> None:
        """See `FrameStream`."""
        self._stepper.reset()
        self._start()

    def push(self, views: np.ndarray) -> StreamScores:
        """See `FrameStream`."""
        indices, scores = [], []
        for view in views:
            self._step(view)
            self._num_frames += 1
            if self._num_frames % self.predict_every == 0:
                indices.append(self._num_frames - 1)
                scores.append(self._scores)
        return StreamScores(
            indices,
            {
                task: np.concatenate([row[task] for row in scores]) if scores else np.empty((0, classes), np.float32)
                for task, classes in self.model.config.tasks.items()
            },
        )

    def _step(self, view: np.ndarray) -> None:
        """Compute the scores at the next frame (C, S, S), unless they repeat those of the frame before."""
        equal = self._view is not None and np.array_equal(view, self._view)
        self._view, self._num_equal = view, self._num_equal + 1 if equal else 1
        if self._num_equal > self.frames_to_settle:
            self.num_reused += 1
            return
        logits = self._stepper.step(normalize(view[None, None], self.model.clip_spec))
        tasks = self.model.config.tasks
        self._scores = {task: self.model.probabilities(x) for task, x in zip(tasks, logits, strict=True)}

    def flush(self) -> StreamScores:
        """See `FrameStream`; a causal model has no waiting frames."""
        return self.push(np.empty((0, 3, 1, 1), np.uint8))
