"""Class scores over time -> segments: smoothing, two thresholds, a smallest length. Plain arrays, no state.

    times      t0    t1       t2   t3        seconds of the N scores
    cells    |----|-------|------|-------|   the time that each stands for, up to the middle between it and the next;
             0                        duration   the first from 0, the last to the end

A segment is made of whole cells. What belongs to none is nothing of these classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvit.utils.errors import XViTError, check_range

NOTHING = -1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video in which one thing happens.

    Args:
        start: seconds.
        end: seconds.
        label: the class.
        score: mean of its class's scores, in [0, 1]; None for the truth.

    Raises:
        XViTError: times that are no numbers, or not in order.
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
    values: np.ndarray,
    labels: Sequence[str],
    *,
    duration: float,
    smooth: float = 0.0,
    threshold: float = 0.5,
    leave: float | None = None,
    min_length: float = 0.0,
) -> list[Segment]:
    """Segments, in order, without overlap, within [0, duration].

    A segment begins where a class is the best with a smoothed score of at least `threshold`. It ends where its score
    falls below `leave`, or where another class begins.

    Args:
        times: (N,) seconds, ascending.
        values: (N, K) scores, in [0, 1].
        labels: K class names.
        duration: seconds of the video.
        smooth: seconds of the moving average; 0 for none.
        threshold: score at which a segment begins.
        leave: score below which it ends; half of `threshold` if None.
        min_length: seconds. A shorter segment between two of one class becomes part of theirs, others become nothing;
            the shortest goes first.

    Raises:
        XViTError: a number out of its range, shapes that do not fit together.
    """
    leave = threshold / 2 if leave is None else leave
    check_range("smooth", smooth, 0)
    check_range("threshold", threshold, 0, 1)
    check_range("leave", leave, 0, threshold)
    check_range("min_length", min_length, 0)
    if times.ndim != 1 or values.shape != (len(times), len(labels)) or not values.size:
        raise XViTError(f"{times.shape} times, scores of shape {values.shape}: expected (N,) and (N, {len(labels)})")
    chosen = hysteresis(smoothed(times, values, smooth), threshold=threshold, leave=leave)
    edges = cells(times, duration)
    starts = np.flatnonzero(np.diff(chosen, prepend=NOTHING - 1))  # the first cell of each run
    runs, classes = drop_short(edges[[*starts, -1]], chosen[starts], min_length)
    found = []
    for start, end, label in zip(runs[:-1], runs[1:], classes, strict=True):
        if label != NOTHING:
            inside = slice(*np.searchsorted(edges, [start, end]))
            score = float(values[inside, label].mean(dtype=np.float64))
            found.append(Segment(start=float(start), end=float(end), label=labels[label], score=score))
    return found


def cells(times: np.ndarray, duration: float) -> np.ndarray:
    """Bounds (N + 1,) of the time that each of the scores at `times` (N,) stands for, in seconds."""
    if not 0 <= times[0] <= times[-1] < duration:
        raise XViTError(f"duration={duration}: expected more than {times[-1]}, the time of the last score")
    return np.concatenate([[0.0], (times[:-1] + times[1:]) / 2, [duration]])


def smoothed(times: np.ndarray, values: np.ndarray, seconds: float) -> np.ndarray:
    """Moving average (N, K) over all scores at most `seconds` / 2 away; of fewer at the ends."""
    reach = seconds / 2 + 1e-9  # times are sums of 1 / fps: those exactly at the border belong to it
    first = np.searchsorted(times, times - reach, side="left")
    last = np.searchsorted(times, times + reach, side="right")
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    return (sums[last] - sums[first]) / (last - first)[:, None]


def hysteresis(values: np.ndarray, *, threshold: float, leave: float) -> np.ndarray:
    """The class at each of N scores (N, K), or `NOTHING`: see `find_segments`."""
    best = values.argmax(axis=1)
    enters = values[np.arange(len(values)), best] >= threshold
    chosen = np.full(len(values), NOTHING)
    current = NOTHING
    for row, (candidate, enter) in enumerate(zip(best.tolist(), enters.tolist(), strict=True)):
        if enter:
            current = candidate
        elif current != NOTHING and values[row, current] < leave:
            current = NOTHING
        chosen[row] = current
    return chosen


def drop_short(edges: np.ndarray, classes: np.ndarray, min_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Runs without short ones: the shortest goes first, to its neighbours if they are of one class, else to nothing.

    Args:
        edges: (R + 1,) seconds at which the runs begin, and the last one ends.
        classes: (R,) their classes, no two neighbours of one.
        min_length: seconds; runs of `NOTHING` may be shorter.

    Returns:
        Edges and classes of the runs that are left.
    """
    while len(classes):
        lengths = np.where(classes == NOTHING, math.inf, np.diff(edges))
        run = int(lengths.argmin())
        if lengths[run] >= min_length:
            break
        before = classes[run - 1] if run > 0 else NOTHING
        after = classes[run + 1] if run + 1 < len(classes) else NOTHING
        classes = classes.copy()
        classes[run] = before if before == after else NOTHING
        joins = np.flatnonzero(classes[1:] == classes[:-1]) + 1  # runs that now go on the one before
        edges, classes = np.delete(edges, joins), np.delete(classes, joins)
    return edges, classes
