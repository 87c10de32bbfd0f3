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

These are frames at the clip spec's frame rate. A video of another rate, or a varying one, is read as if it had that
rate: frame k is the one on display k / frame_rate seconds after the first frame, here for 4 frames per second

    seconds   0          0.25         0.5         0.75          1
    frames    0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15 16 17    of a video of 16 frames per second
    read      0           4           8           12          16
"""

import numpy as np

from xvit.config import ClipSpec
from xvit.utils.errors import check_range

_TIME_TOLERANCE = 1e-3  # seconds: Matroska rounds timestamps to milliseconds
_MIN_RATE = 0.9  # a slower video, relative to the rate of a clip's frames, is reported


def sample_frames(
    clip_spec: ClipSpec,
    times: np.ndarray,
    *,
    start: float,
    end: float,
    rng: np.random.Generator | None = None,
    view: int = 0,
    num_views: int = 1,
) -> np.ndarray:
    """The frame indices of one clip of a video, by the times of its frames.

    Args:
        clip_spec, rng, view, num_views: as in `sample_indices`.
        times: (N,) seconds, ascending: of all frames of the video or of its segment.
        start, end: seconds at which the video or segment starts and ends.

    Returns:
        (T,) int64, ascending, within [0, N). Without `clip_spec.frame_rate`, those of `sample_indices`.

    Raises:
        XViTError: a number out of its range.
    """
    rate, total_frames = clip_spec.frame_rate, len(times)
    if rate:
        total_frames = count_frames(end - start, rate)
        if clip_spec.spans_video and total_frames < clip_spec.num_frames:
            factor = -(-clip_spec.num_frames // total_frames)  # a short video is read at a multiple of the rate
            rate, total_frames = factor * rate, factor * total_frames
    indices = sample_indices(clip_spec, total_frames, rng=rng, view=view, num_views=num_views)
    if not rate:
        return indices
    return frames_at(times, start + indices / rate, rate, interval=(end - start) / len(times))


def count_frames(duration: float, frame_rate: float) -> int:
    """Number of frames of a video of `duration` seconds that is read at a frame rate; at least 1."""
    return max(round((duration - _TIME_TOLERANCE) * frame_rate), 1)  # half a frame is none, however it is rounded


def frames_at(times: np.ndarray, seconds: np.ndarray, frame_rate: float, *, interval: float) -> np.ndarray:
    """The frames on display at some moments of a video that is read at a frame rate.

    Where frames are close, this is the first frame at or after the moment: a video whose rate was raised by repeating
    frames shows a frame of the original up to one of its own intervals late. At about the same rate it is the nearest
    frame, so that unsteady times do no harm. Where the video is slower, the latest frame stays on display until half of
    1 / frame_rate before the next one.

    Args:
        times: (N,) seconds, ascending: of the frames of the video.
        seconds: (n,) the moments, on the same clock.
        frame_rate: frames per second at which the video is read.
        interval: mean time from one frame of the video to the next, in seconds.

    Returns:
        (n,) int64 indices within [0, N).
    """
    return np.searchsorted(display_starts(times, frame_rate, interval=interval), seconds, side="right")


def display_starts(times: np.ndarray, frame_rate: float, *, interval: float) -> np.ndarray:
    """The moments (N - 1,) from which each frame but the first is on display, as `frames_at` says."""
    gaps = np.diff(times)
    tolerance = np.minimum(_TIME_TOLERANCE, gaps / 3)
    # Times that were rounded when frames were repeated are up to half an interval early, and the frame for the moment
    # before, 1 / frame_rate ago, must still be on display then.
    longest = max(1 / frame_rate - interval / 2, 0.5 / frame_rate)
    return times[1:] - np.minimum(gaps - tolerance, longest + tolerance)


def sampling_warning(clip_spec: ClipSpec, num_frames: int, fps: float) -> str:
    """Why frames of a video (or segment) of `num_frames` frames are repeated in a clip; empty if none has to be."""
    T, rate = clip_spec.num_frames, clip_spec.frame_rate
    if num_frames < T:
        return f"{num_frames} frames, fewer than the {T} of a clip: frames are repeated"
    spacing = None if clip_spec.spans_video else clip_spec.spacing
    return slow_warning(fps, rate / spacing) if rate and spacing else ""


def slow_warning(fps: float, needed: float) -> str:
    """Why frames of a video of `fps` frames per second are repeated where `needed` are read; empty if none is."""
    if fps >= _MIN_RATE * needed:
        return ""
    return f"{fps:.3g} frames per second, but the model was trained on {needed:.3g}: frames are repeated"


def sample_indices(
    clip_spec: ClipSpec, total_frames: int, *, rng: np.random.Generator | None = None, view: int = 0, num_views: int = 1
) -> np.ndarray:
    """The frame indices of one clip, sampled as `clip_spec` says.

    Segments: one frame from each of T equal parts of the video; part i holds the frames from floor(i total / T) to
    floor((i + 1) total / T) - 1. `rng` draws a frame from each part. Without it, view v of V takes the frame at
    (v + 1/2) / V of each part: the middle one for a single view. If there are fewer than T frames, some are repeated.

    Strided: T frames, `stride` apart. `rng` draws the start. Without it, the start is that of `view_start`. If the
    video ends before the clip does, its last frame is repeated.

    The two PySlowFast kinds differ by a frame or so. Its segments are bounded by round(i (total - 1) / T), both bounds
    included; test views 0, 1, 2 take the middle, the first and the last frame. Its strided clip is T frames evenly over
    T stride frames, the first and the last included; view v of V starts v / V of the way to the last start.

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
    if clip_spec.sampling == "pyslowfast_segments":
        check_range("num_views", num_views, 1, 3)
        bounds = np.rint(np.arange(T + 1) * ((total_frames - 1) / T)).astype(np.int64)
        first, last = bounds[:-1], bounds[1:]
        return ((first + last) // 2, first, last)[view] if rng is None else rng.integers(first, last + 1)
    if clip_spec.sampling == "pyslowfast_strided":
        last = max(total_frames - T * stride, 0)
        offset = last * view / num_views if rng is None else rng.uniform(0, last)
        return _float32_linspace(offset, offset + T * stride - 1, T).clip(0, total_frames - 1).astype(np.int64)
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


def _float32_linspace(start: float, stop: float, num: int) -> np.ndarray:
    """As torch.linspace, bit for bit: PySlowFast truncates its values, and some of them are close to an integer."""
    first, last = np.float32(start), np.float32(stop)
    step, index = float((last - first) / np.float32(max(num - 1, 1))), np.arange(num)
    from_first, from_last = float(first) + step * index, float(last) - step * (num - 1 - index)
    return np.where(index < max(num // 2, 1), from_first, from_last).astype(np.float32)
