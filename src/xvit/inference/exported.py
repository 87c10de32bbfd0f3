"""Scores of clips and streams from an exported model, in NumPy: the runtimes of exported models need no torch."""

import numpy as np

from xvit.data.arrays import normalize
from xvit.export.runtime import ExportedModel
from xvit.inference.frame_stream import ClipScores, StreamScores
from xvit.utils.errors import check_range


def predict_scores(model: ExportedModel, pixels: np.ndarray, max_clips: int) -> ClipScores:
    """Class probabilities and margins of clips, averaged over their views.

    Args:
        model: runs on at most `max_clips` clips at a time.
        pixels: (B, V, T, C, S, S) uint8.
        max_clips: the number of clips.
    """
    B, V = pixels.shape[:2]
    clips = pixels.reshape(B * V, *pixels.shape[2:])
    chunks = [clips[start : start + max_clips] for start in range(0, max(B * V, 1), max_clips)]
    outputs = [model.classify(_to_input(chunk, model)) for chunk in chunks]
    scores, margins = (
        {task: np.concatenate([part[task] for part in parts]) for task in parts[0]}
        for parts in zip(*outputs, strict=True)
    )
    return ClipScores(
        {task: x.reshape(B, V, -1).mean(axis=1) for task, x in scores.items()},
        {task: x.reshape(B, V).mean(axis=1) for task, x in margins.items()},
    )


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
        self._latest = ClipScores({}, {})  # of the latest frame

    def reset(self) -> None:
        """See `FrameStream`."""
        self._stepper.reset()
        self._start()

    def push(self, views: np.ndarray) -> StreamScores:
        """See `FrameStream`."""
        indices, latest = [], []
        for view in views:
            self._step(view)
            self._num_frames += 1
            if self._num_frames % self.predict_every == 0:
                indices.append(self._num_frames - 1)
                latest.append(self._latest)
        tasks, calibration = self.model.config.tasks, self.model.calibration
        return StreamScores(
            indices,
            {
                t: np.concatenate([np.empty((0, n), np.float32), *(x.scores[t] for x in latest)])
                for t, n in tasks.items()
            },
            {t: np.concatenate([np.empty(0), *(x.margins[t] for x in latest)]) for t in calibration},
        )

    def _step(self, view: np.ndarray) -> None:
        """Compute the scores at the next frame (C, S, S), unless they repeat those of the frame before."""
        equal = self._view is not None and np.array_equal(view, self._view)
        self._view, self._num_equal = view, self._num_equal + 1 if equal else 1
        if self._num_equal > self.frames_to_settle:
            self.num_reused += 1
            return
        logits = self._stepper.step(normalize(view[None, None], self.model.clip_spec))
        self._latest = ClipScores(*self.model.score(dict(zip(self.model.config.tasks, logits, strict=True))))

    def flush(self) -> StreamScores:
        """See `FrameStream`; a causal model has no waiting frames."""
        return self.push(np.empty((0, 3, 1, 1), np.uint8))
