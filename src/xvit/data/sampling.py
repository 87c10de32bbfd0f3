"""Frame sampling: the indices of the video frames that make up a clip.

segments, T = 4: one frame from each of T equal parts of the whole video, here of 18 frames

    index     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17
    part      [---0----]  [-----1-----]  [---2----]  [-----3-----]
    training           x     x           x                    x       a random frame of each part
    test            x           x              x           x          the middle frame of each part

strided, T = 4, stride = 3: frames 3 apart, spanning (T - 1) 3 + 1 = 10 frames

    index     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17
    training                 x        x        x        x             from a random start
    test                  x        x        x        x                one view: centred
    2 views   x        x        x        x                            several views: the first starts at the first
                                      x        x        x        x    frame, the last ends at the last frame
"""

import numpy as np

from xvit.config import ClipSpec
from xvit.utils.errors import check_range


def sample_indices(
    clip_spec: ClipSpec, total_frames: int, *, rng: np.random.Generator | None = None, view: int = 0, num_views: int = 1
) -> np.ndarray:
    """The frame indices of one clip, sampled as `clip_spec` says.

    Segments: one frame from each of T equal parts of the video; part i holds the frames from floor(i total / T) to
    floor((i + 1) total / T) - 1. `rng` draws a frame from each part. Without it, view v of V takes the frame at
    (v + 1/2) / V of each part: the middle one for a single view. If there are fewer than T frames, some are repeated.

    Strided: T frames, `stride` apart. `rng` draws the start. Without it, the start is that of `view_start`. If the
    video ends before the clip does, its last frame is repeated.

    Args:
        clip_spec: the kind of sampling, the number of frames T and the stride.
        total_frames: number of frames of the video.
        rng: draws a random clip, for training; None takes a test view.
        view: index of the test view, from 0.
        num_views: number of test views.

    Returns:
        (T,) int64, ascending, within [0, total_frames).

    Raises:
        XViTError: a number out of its range.
    """
    check_range("total_frames", total_frames, 1)
    check_range("num_views", num_views, 1)
    check_range("view", view, 0, num_views - 1)
    T, stride = clip_spec.num_frames, clip_spec.stride
    if clip_spec.sampling == "segments":
        bounds = np.arange(T + 1, dtype=np.int64) * total_frames // T
        lengths = np.maximum(np.diff(bounds), 1)
        offsets = (2 * view + 1) * lengths // (2 * num_views) if rng is None else rng.integers(0, lengths)
        return bounds[:-1] + offsets
    last_start = max(total_frames - ((T - 1) * stride + 1), 0)
    start = view_start(last_start, view, num_views) if rng is None else int(rng.integers(0, last_start + 1))
    return np.minimum(start + stride * np.arange(T, dtype=np.int64), total_frames - 1)


def view_start(last_start: int, view: int, num_views: int) -> int:
    """The start of view v of V, v / (V - 1) of the way from 0 to `last_start`; the middle for a single view."""
    return last_start // 2 if num_views == 1 else last_start * view // (num_views - 1)
