"""What a clip spec learns from the training videos: their frame rate, and the spacing of the frames of a clip."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from xvit.config import ClipSpec
from xvit.data.annotations import Sample
from xvit.data.decode import probe
from xvit.data.remote import local_video
from xvit.data.sampling import count_frames
from xvit.data.timeout import call_with_timeout
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.parallel import parallel_map
from xvit.utils.workers import killed_error

_MAX_VIDEOS = 64  # a scan of all packets of all videos would take as long as an epoch on a network disk


def learn_sampling(
    clip_spec: ClipSpec, samples: Sequence[Sample], *, timeout: float = 0.0, num_workers: int = 0
) -> ClipSpec:
    """Fill in what `clip_spec` is to learn: the frame rate if it is open, the stride if clips span whole videos.

    The frame rate is the median of up to 64 videos, evenly spaced in `samples`. If clips span whole videos, the stride
    is the distance of two frames of a clip of the median length. Both stay as they are if `frame_rate` is None.

    Args:
        samples: the training samples.
        timeout: seconds after which a video is left out; 0 for no limit.
        num_workers: processes that read the videos, of which one that is killed leaves its video out; 0 reads in this
            process.

    Raises:
        XViTError: none of these videos can be read.
    """
    if clip_spec.frame_rate is None or (clip_spec.frame_rate and not clip_spec.spans_video):
        return clip_spec
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _MAX_VIDEOS)).round().astype(int))
    results = parallel_map(
        partial(_measure, timeout=timeout),
        [samples[index] for index in chosen],
        num_workers=num_workers,
        on_killed=lambda sample, how: killed_error(sample.path, how),
        start_method=None,
    )
    measured = [result for result in results if not isinstance(result, VideoError)]
    if not measured:
        advice = "check the data (xvit data check), or set clip.frame_rate"
        raise XViTError(f"the frame rate cannot be learnt from {len(chosen)} videos: {results[0]}; {advice}")
    rates, durations = zip(*measured, strict=True)
    frame_rate = clip_spec.frame_rate or round(float(np.median(rates)), 3)
    if not clip_spec.spans_video:
        return replace(clip_spec, frame_rate=frame_rate)
    total_frames = count_frames(float(np.median(durations)), frame_rate)
    return replace(clip_spec, frame_rate=frame_rate, stride=max(round(total_frames / clip_spec.num_frames), 1))


def _measure(sample: Sample, timeout: float) -> tuple[float, float] | VideoError:
    """The frame rate of the file, and the duration of the sample in seconds."""
    try:
        with local_video(sample.path) as video:
            info = call_with_timeout(partial(probe, video.path, fps=sample.fps), sample.path, timeout)
    except VideoError as error:
        return VideoError(error.path, error.reason)  # a new error, whose traceback does not hold video frames
    return info.fps, len(sample.frames(info.times)) / info.fps
