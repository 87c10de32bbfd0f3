"""Which frames of a video make a clip: index arithmetic on integers, nothing else.

segments, T = 4: one frame of each of T equal parts of the whole video, here of 18 frames

    index     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17
    part      [---0----]  [-----1-----]  [---2----]  [-----3-----]
    training           x     x           x                    x       a random one of each part
    test            x           x              x           x          the middle one

strided, T = 4, stride = 3: frames 3 apart, spanning (T - 1) 3 + 1 = 10 frames

    index     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17
    training                 x        x        x        x             from a random start
    test                  x        x        x        x                one view: in the middle
    2 views   x        x        x        x                            several: the first begins at
                                      x        x        x        x    the beginning, the last ends at the end
"""

import numpy as np

from xvit.config import ClipSpec
from xvit.utils.errors import check_range


def segment_indices(
    total: int, num_frames: int, *, rng: np.random.Generator | None = None, view: int = 0, views: int = 1
) -> np.ndarray:
    """One frame from each of T equal parts; part i holds frames floor(i total / T) to floor((i + 1) total / T) - 1.

    Args:
        total: frames of the video.
        num_frames: T. A video with fewer frames shows some of them several times.
        rng: draws a frame of each part; without it, view v of V takes the one at (v + 1/2) / V of the part: the
            middle one for a single view.
        view: which of the test views, from 0.
        views: how many test views there are.

    Returns:
        (num_frames,) int64, ascending, within [0, total).

    Raises:
        XViTError: a number out of its range.
    """
    _check(total, num_frames, view, views)
    bounds = np.arange(num_frames + 1, dtype=np.int64) * total // num_frames
    lengths = np.maximum(np.diff(bounds), 1)
    within = (2 * view + 1) * lengths // (2 * views) if rng is None else rng.integers(0, lengths)
    return bounds[:-1] + within


def strided_indices(
    total: int, num_frames: int, stride: int, *, rng: np.random.Generator | None = None, view: int = 0, views: int = 1
) -> np.ndarray:
    """`num_frames` frames, `stride` apart; where the video ends before, its last frame is repeated.

    Args:
        total: frames of the video.
        num_frames: T.
        stride: frames from one to the next.
        rng: draws the start; without it, view v of V starts at v / (V - 1) of the room there is, and a single view
            in its middle.
        view: which of the test views, from 0.
        views: how many test views there are.

    Returns:
        (num_frames,) int64, ascending, within [0, total).

    Raises:
        XViTError: a number out of its range.
    """
    _check(total, num_frames, view, views)
    check_range("stride", stride, 1)
    room = max(total - ((num_frames - 1) * stride + 1), 0)
    if rng is not None:
        start = int(rng.integers(0, room + 1))
    else:
        start = room // 2 if views == 1 else room * view // (views - 1)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total - 1)


def sample_indices(
    spec: ClipSpec, total: int, *, rng: np.random.Generator | None = None, view: int = 0, views: int = 1
) -> np.ndarray:
    """The frames of one clip, sampled as `spec` says: at random with `rng` (training), else a test view.

    Raises:
        XViTError: a number out of its range.
    """
    if spec.sampling == "segments":
        return segment_indices(total, spec.num_frames, rng=rng, view=view, views=views)
    return strided_indices(total, spec.num_frames, spec.stride, rng=rng, view=view, views=views)


def _check(total: int, num_frames: int, view: int, views: int) -> None:
    check_range("total", total, 1)
    check_range("num_frames", num_frames, 1)
    check_range("views", views, 1)
    check_range("view", view, 0, views - 1)
