"""Finding segments in class scores over time: smoothing, hysteresis, minimum length. Plain arrays, no state.

    times      t0    t1       t2   t3        seconds of the N scores
    cells    |----|-------|------|-------|   the time span of each score: its bounds are midway to its neighbours;
             0                        duration   the first cell begins at 0, the last one ends at the duration

A segment consists of whole cells. Time outside all segments is background: none of the classes. So is time at which
nothing moves, and time of a class that is ignored.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from xvit.utils.errors import XViTError, check_range

BACKGROUND = -1
_SMOOTH, _MIN_LENGTH = 0.75, 0.9  # of the duration of the model's clip


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video with one class, from `start` to `end` seconds.

    Args:
        start: seconds from the first frame.
        end: seconds, later than `start`.
        label: name of the class.
        score: mean score of the class, in [0, 1]; None in the ground truth.

    Raises:
        XViTError: the times are not finite or not in order.
    """

    start: float
    end: float
    label: str
    score: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end < math.inf:
            raise XViTError(f"a segment from {self.start} to {self.end} s: expected 0 <= start < end")


def find_segments(
    times: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    *,
    duration: float,
    smooth: float = 0.0,
    threshold: float = 0.5,
    low_threshold: float | None = None,
    min_length: float = 0.0,
    moving: np.ndarray | None = None,
    ignore: Collection[str] = (),
) -> list[Segment]:
    """Find segments, in order, without overlap, within [0, duration].

    A segment begins where a class has the highest smoothed score and this is at least `threshold`. It ends where its
    score falls below `low_threshold`, where a segment of another class begins, or where nothing moves any more.

    Args:
        times: (N,) seconds, ascending.
        scores: (N, K), in [0, 1]; all 0 where none of the classes is shown.
        class_names: the K class names.
        duration: seconds of the video.
        smooth: window of the moving average in seconds; 0 for none.
        threshold: score at which a segment begins.
        low_threshold: score below which it ends; half of `threshold` if None.
        min_length: seconds. A shorter segment between two segments of the same class is merged with them, any other
            becomes background; the shortest segment is handled first.
        moving: (N,) bool: where something moves; None for everywhere. Elsewhere the scores count as 0.
        ignore: classes that compete with the others, but whose segments are left out.

    Raises:
        XViTError: a number is out of range, or the shapes do not match.
    """
    low_threshold = threshold / 2 if low_threshold is None else low_threshold
    check_range("smooth", smooth, 0)
    check_range("threshold", threshold, 0, 1)
    check_range("low_threshold", low_threshold, 0, threshold)
    check_range("min_length", min_length, 0)
    if times.ndim != 1 or scores.shape != (len(times), len(class_names)) or not scores.size:
        expected = f"expected (N,) and (N, {len(class_names)})"
        raise XViTError(f"times of shape {times.shape}, scores of shape {scores.shape}: {expected}")
    if moving is None:
        moving = np.ones(len(times), dtype=bool)
    if moving.shape != times.shape:
        raise XViTError(f"moving of shape {moving.shape}: expected {times.shape}")
    smoothed = moving_average(times, np.where(moving[:, None], scores, 0), smooth)
    smoothed[~moving | ~smoothed.any(axis=1)] = -1  # below any threshold
    classes = hysteresis(smoothed, threshold=threshold, low_threshold=low_threshold)
    edges = cell_edges(times, duration)
    starts = np.flatnonzero(np.diff(classes, prepend=BACKGROUND - 1))  # the first cell of each run
    run_edges, run_classes = drop_short(edges[[*starts, -1]], classes[starts], min_length)
    segments = []
    for start, end, index in zip(run_edges[:-1], run_edges[1:], run_classes, strict=True):
        if index != BACKGROUND and class_names[index] not in ignore:
            inside = slice(*np.searchsorted(edges, [start, end]))
            score = float(scores[inside, index].mean(dtype=np.float64))
            segments.append(Segment(start=float(start), end=float(end), label=class_names[index], score=score))
    return segments


def default_lengths(clip_duration: float) -> dict[str, float]:
    """The `smooth` and `min_length` of `find_segments`, in seconds, that suit a model with clips of this duration."""
    return {"smooth": _SMOOTH * clip_duration, "min_length": _MIN_LENGTH * clip_duration}


def still_stretches(times: np.ndarray, moving: np.ndarray, duration: float) -> list[tuple[float, float]]:
    """Start and end, in seconds, of the stretches of cells at which nothing moves."""
    edges = cell_edges(times, duration)
    changes = np.flatnonzero(np.diff(~moving, prepend=False, append=False))
    return [(float(start), float(end)) for start, end in edges[changes].reshape(-1, 2)]


def cell_edges(times: np.ndarray, duration: float) -> np.ndarray:
    """Bounds (N + 1,), in seconds, of the cells of the scores at `times` (N,)."""
    if not 0 <= times[0] <= times[-1] < duration:
        raise XViTError(f"duration={duration}: expected more than {times[-1]}, the time of the last score")
    return np.concatenate([[0.0], (times[:-1] + times[1:]) / 2, [duration]])


def moving_average(times: np.ndarray, scores: np.ndarray, seconds: float) -> np.ndarray:
    """For each of the N times, the mean (N, K) of all scores at most `seconds` / 2 away."""
    reach = seconds / 2 + 1e-9  # times are sums of 1 / fps: those exactly at the border must be included
    first = np.searchsorted(times, times - reach, side="left")
    last = np.searchsorted(times, times + reach, side="right")
    sums = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0, dtype=np.float64)])
    return (sums[last] - sums[first]) / (last - first)[:, None]


def hysteresis(scores: np.ndarray, *, threshold: float, low_threshold: float) -> np.ndarray:
    """The class index (N,), or `BACKGROUND`, at each of the N scores (N, K); see `find_segments`."""
    best = scores.argmax(axis=1)
    begins = scores[np.arange(len(scores)), best] >= threshold
    classes = np.full(len(scores), BACKGROUND)
    current = BACKGROUND
    for row, (candidate, begin) in enumerate(zip(best.tolist(), begins.tolist(), strict=True)):
        if begin:
            current = candidate
        elif current != BACKGROUND and scores[row, current] < low_threshold:
            current = BACKGROUND
        classes[row] = current
    return classes


def drop_short(edges: np.ndarray, classes: np.ndarray, min_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove short runs, the shortest first. A run between two runs of one class joins them, others become background.

    Takes and returns the bounds (R + 1,) of the R runs, in seconds, and their classes (R,); neighbours differ.
    """
    while len(classes):
        lengths = np.where(classes == BACKGROUND, math.inf, np.diff(edges))
        run = int(lengths.argmin())
        if lengths[run] >= min_length:
            break
        before = classes[run - 1] if run > 0 else BACKGROUND
        after = classes[run + 1] if run + 1 < len(classes) else BACKGROUND
        classes = classes.copy()
        classes[run] = before if before == after else BACKGROUND
        merged = np.flatnonzero(classes[1:] == classes[:-1]) + 1  # runs that continue the previous one
        edges, classes = np.delete(edges, merged), np.delete(classes, merged)
    return edges, classes
