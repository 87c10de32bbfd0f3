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
    num_frames, stride = clip_spec.num_frames, clip_spec.stride
    if clip_spec.sampling == "segments":
        return segment_indices(total_frames, num_frames, rng=rng, view=view, num_views=num_views)
    return strided_indices(total_frames, num_frames, stride, rng=rng, view=view, num_views=num_views)


def segment_indices(
    total_frames: int, num_frames: int, *, rng: np.random.Generator | None = None, view: int = 0, num_views: int = 1
) -> np.ndarray:
    """One frame from each of T equal parts; part i holds frames floor(i total / T) to floor((i + 1) total / T) - 1.

    `rng` draws a frame from each part. Without it, view v of V takes the frame at (v + 1/2) / V of each part: the
    middle one for a single view. A video with fewer than T frames shows some of them several times.

    The other arguments, the result and the errors are those of `sample_indices`.
    """
    _check_numbers(total_frames, num_frames, view, num_views)
    bounds = np.arange(num_frames + 1, dtype=np.int64) * total_frames // num_frames
    lengths = np.maximum(np.diff(bounds), 1)
    offsets = (2 * view + 1) * lengths // (2 * num_views) if rng is None else rng.integers(0, lengths)
    return bounds[:-1] + offsets


def strided_indices(
    total_frames: int,
    num_frames: int,
    stride: int,
    *,
    rng: np.random.Generator | None = None,
    view: int = 0,
    num_views: int = 1,
) -> np.ndarray:
    """T frames, `stride` apart. If the video ends before the clip does, its last frame is repeated.

    `rng` draws the start. Without it, view v of V starts at v / (V - 1) of the possible starts, and a single view in
    the middle. The other arguments, the result and the errors are those of `sample_indices`.
    """
    _check_numbers(total_frames, num_frames, view, num_views)
    check_range("stride", stride, 1)
    last_start = max(total_frames - ((num_frames - 1) * stride + 1), 0)
    if rng is not None:
        start = int(rng.integers(0, last_start + 1))
    else:
        start = last_start // 2 if num_views == 1 else last_start * view // (num_views - 1)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total_frames - 1)


def _check_numbers(total_frames: int, num_frames: int, view: int, num_views: int) -> None:
    check_range("total_frames", total_frames, 1)
    check_range("num_frames", num_frames, 1)
    check_range("num_views", num_views, 1)
    check_range("view", view, 0, num_views - 1)
