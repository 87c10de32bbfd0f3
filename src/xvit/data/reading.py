"""Reading the clips of a sample: the segment of its video, and of that the frames that a clip spec chooses.

Shapes: V = temporal_views x spatial_views test views, T frames, C = 3 colours, S = clip_spec.image_size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from xvit.config import ClipSpec
from xvit.data.annotations import Label, Sample
from xvit.data.decode import Clip, VideoInfo, read_clip
from xvit.data.remote import local_video
from xvit.data.sampling import sample_frames, sampling_warning
from xvit.data.timeout import call_with_timeout
from xvit.utils.errors import VideoError, XViTError, check_range

FrameChooser = Callable[..., np.ndarray]  # (times of frames, start=, end=) -> indices of the chosen ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One sample: its pixels, or the error that prevented reading them.

    Args:
        label: label of the sample; for a flipped clip, that of its mirror image if the data set has left-right pairs.
        pixels: uint8, (T, C, S, S) for training or (V, T, C, S, S) for testing; None for an unreadable video. A tensor,
            or of an `ArrayDataset` a NumPy array.
        times: for testing: times of the sampled frames in seconds, ascending.
        warnings: what is wrong with a video that was read, such as damaged or repeated frames.
    """

    index: int
    label: Label | None
    pixels: Any = None
    times: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()
    error: VideoError | None = None


def check_reading(
    samples: Sequence[Sample], clip_spec: ClipSpec, temporal_views: int, spatial_views: int, timeout: float
) -> None:
    """Raise `XViTError` for a data set without samples, an incomplete `clip_spec` or a number out of its range."""
    if not samples:
        raise XViTError("samples=[]: expected at least one video")
    if clip_spec.open_fields:
        advice = "pass `XViT.clip_spec`, or complete it with `resolve_clip_spec`"
        raise XViTError(f"clip_spec: {', '.join(clip_spec.open_fields)} not set: {advice}")
    check_range("temporal_views", temporal_views, 1)
    check_range("spatial_views", spatial_views, 1)
    check_range("decode_timeout", timeout, 0)


def read_test_clips(
    sample: Sample, clip_spec: ClipSpec, temporal_views: int, timeout: float, *, shrink: bool = True
) -> Clip:
    """The frames of the clips along a sample, one clip after another: (temporal_views T, H, W, C).

    Args:
        sample: a video, or a segment of one.
        clip_spec: how a clip is sampled.
        temporal_views: number of clips.
        timeout: seconds after which a video that is still being read counts as unreadable; 0 for no limit. The download
            of a video at an address has a limit of its own.
        shrink: read large frames at a smaller size, as `xvit.data.decode.read_clip` does; False leaves all as they are.

    Raises:
        VideoError: the video cannot be read, or ends before the segment.
    """

    def choose_frames(times: np.ndarray, start: float, end: float) -> np.ndarray:
        choose = partial(sample_frames, clip_spec, times, start=start, end=end, num_views=temporal_views)
        return np.concatenate([choose(view=view) for view in range(temporal_views)])

    short_side = clip_spec.image_size if shrink else None
    return read_sample(sample, clip_spec, choose_frames, short_side=short_side, timeout=timeout)


def read_sample(
    sample: Sample, clip_spec: ClipSpec, choose_frames: FrameChooser, *, short_side: int | None, timeout: float
) -> Clip:
    """Read the frames that are chosen from those of the sample's segment, of which there is at least one.

    Args:
        choose_frames: returns the indices to read.
        short_side: as in `xvit.data.decode.read_clip`.
        sample, clip_spec, timeout: as in `read_test_clips`.

    Raises:
        VideoError: the video cannot be read, or ends before the segment.
    """
    warning = ""

    def choose_indices(info: VideoInfo) -> np.ndarray:
        nonlocal warning
        frames = sample.frames(info.times)
        if frames.start >= info.num_frames:
            reason = f"starts at {sample.start:g} s, but the video ends at {info.duration:g} s"
            raise VideoError(sample.path, reason)
        stop = max(frames.stop, frames.start + 1)
        start = info.times[frames.start] if sample.start is None else sample.start
        end = info.duration if sample.stop is None else min(sample.stop, info.duration)
        warning = sampling_warning(clip_spec, stop - frames.start, info.fps)
        return frames.start + choose_frames(info.times[frames.start : stop], start=start, end=end)

    with local_video(sample.path) as video:
        read = partial(read_clip, video.path, choose_indices, short_side=short_side, fps=sample.fps)
        clip = video.name_clip(call_with_timeout(read, sample.path, timeout))
    return replace(clip, warnings=(*clip.warnings, warning)) if warning else clip
