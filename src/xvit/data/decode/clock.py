"""One clock for files and live sources: the times of frames, and the frames on display at a given frame rate.

    timestamps   0.0  0.1  0.2  0.3 | 0.0  0.1  0.2        two recordings in one file
    times        0.0  0.1  0.2  0.3   0.4  0.5  0.6

Times never fall. Where a timestamp is missing, falls, or jumps further ahead than its container makes plausible, the
frame follows the previous one by the usual interval, and the later timestamps count from there.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer

from xvit.data.sampling import count_frames, display_starts

T = TypeVar("T")

# In these formats recordings are joined byte by byte, and broadcasts restart their timestamps. Elsewhere a long step is
# a still picture.
_JOINABLE = {"mpegts", "mpeg", "flv", "live_flv", "rtsp"}
MAX_TIME_STEP = 10.0  # seconds between two frames; FFmpeg has the same limit
_MAX_STILL = 86400.0  # the same for all other formats, so that a damaged timestamp cannot stand for years
_ASSUMED_RATE = 25.0  # frames per second of a stream that states none, as in FFmpeg
_MAX_RATE = 1000.0
_EPSILON = 1e-9  # seconds
_NUM_STEPS = 9  # of which the median is the interval of a video: odd, and few enough to follow a change
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS among the flags of a format


class Clock:
    """The times of successive frames in seconds, from `start` on.

    Args:
        interval: seconds from one frame to the next, until timestamps have shown it.
        max_step: a timestamp further ahead than this many seconds is ignored.
    """

    def __init__(self, interval: float, *, max_step: float = math.inf, start: float = 0.0) -> None:
        self.interval, self.max_step = interval, max_step
        self.time = start - interval  # of the latest frame
        self._previous: float | None = None  # the latest timestamp
        self._offset = 0.0  # from timestamps to times
        self._steps: deque[float] = deque(maxlen=_NUM_STEPS)  # latest differences of timestamps

    def tick(self, timestamp: float | None) -> float:
        """The time of the next frame, whose timestamp is `timestamp` seconds; None if it is unknown."""
        time = self.time
        if timestamp is not None:
            step = -1.0 if self._previous is None else timestamp - self._previous
            if 0 <= step <= self.max_step:
                self._steps.append(step)
            else:
                self._offset = self._next_time() - timestamp
            self._previous = timestamp
            time = timestamp + self._offset
        self.time = time if time > self.time else self._next_time()  # two frames may have the same timestamp
        return self.time

    def _next_time(self) -> float:
        return self.time + ((median(self._steps) if self._steps else 0.0) or self.interval)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How the frames of an open video are timed.

    Args:
        rate: frames per second, where timestamps do not say.
        time_base: seconds per unit of the timestamps.
        by_decoding: decoding times count, in order: AVI has no others, and counts repeated frames in them.
        max_step: the longest plausible step between two timestamps, in seconds.
        raw: the format has no timestamps: those that FFmpeg reports follow from `rate`.
        warning: "no timestamps: 25 frames per second assumed"; empty if nothing had to be assumed.
    """

    rate: float
    time_base: float
    by_decoding: bool
    max_step: float
    raw: bool
    warning: str

    @classmethod
    def of(cls, container: InputContainer, stream: av.VideoStream) -> "Timing":
        """Read the timing from the headers."""
        name = container.format.name
        # The parser of raw MJPEG, which FFmpeg calls jpeg_pipe, is not marked as one without timestamps.
        raw = bool(container.format.flags & _NO_TIMESTAMPS) or name == "jpeg_pipe"
        stated = stream.codec_context.framerate  # by the bitstream; what FFmpeg assumes is in `average_rate`
        rates = [stated, stated and stream.guessed_rate] if raw else [stream.average_rate, stated, stream.guessed_rate]
        rate = next((float(rate) for rate in rates if rate and 0 < rate <= _MAX_RATE), None)
        assumed = f"no timestamps: {_ASSUMED_RATE:g} frames per second assumed" if raw and rate is None else ""
        return cls(
            rate=rate or _ASSUMED_RATE,
            time_base=float(stream.time_base or 1),
            by_decoding=name == "avi",
            max_step=MAX_TIME_STEP if name in _JOINABLE else _MAX_STILL,
            raw=raw,
            warning=assumed,
        )

    def clock(self, *, start: float = 0.0, max_step: float = math.inf) -> Clock:
        """A clock for the frames of the video in order."""
        return Clock(1 / self.rate, max_step=min(self.max_step, max_step), start=start)

    def seconds(self, frame: av.VideoFrame) -> float | None:
        """The timestamp of a decoded frame in seconds; None if it is unknown."""
        timestamp = frame.dts if self.by_decoding else frame.pts
        return None if timestamp is None else timestamp * self.time_base


def split_sections(dts: Sequence[int | None], max_step: float) -> list[slice]:
    """The parts of a file between which decoding times fall or jump by more than `max_step` of their units.

    Args:
        dts: decoding time of each packet, in the order of the packets.
    """
    bounds, previous = [0], None
    for index, value in enumerate(dts):
        if value is None:
            continue
        if previous is not None and not 0 <= value - previous <= max_step:
            bounds.append(index)
        previous = value
    return [slice(start, stop) for start, stop in zip(bounds, [*bounds[1:], len(dts)], strict=True)]


def display_order(pts: Sequence[int | None]) -> list[int | None]:
    """The timestamps of the packets of a section in the order in which their frames are shown.

    A packet without a timestamp stays behind the packet before it.
    """
    keys: list[float] = []
    for value in pts:
        keys.append(value if value is not None else keys[-1] if keys else -math.inf)
    return [pts[index] for index in sorted(range(len(pts)), key=keys.__getitem__)]


def choose_frames(
    frames: Iterable[tuple[float, T]],
    *,
    stride: int,
    frame_rate: float | None,
    interval: float | None = None,
    end: float = math.inf,
    first_index: int = 0,
    max_gap: float = math.inf,
) -> Iterator[tuple[T, float | None]]:
    """Choose every `stride`-th frame of a video as it is read; with a frame rate, of the video at that rate.

    At a frame rate, the frame on display is taken each stride / frame_rate seconds, as `frames_at` does for a video
    whose times are all known: again if the video is slower, not at all if no such moment falls to it. A moment at or
    before the time of the latest frame is settled at once, a later one by the next frame. The last frame stays on
    display for one interval.

    Args:
        frames: time in seconds, ascending, and frame.
        interval: mean time from one frame to the next, in seconds; None to measure it as the frames come.
        end: seconds at which the video ends, if that is known.
        first_index: index of the first frame, without a frame rate: those whose index `stride` divides are taken.
        max_gap: for how many seconds after its time a frame is repeated at most.

    Yields:
        Each frame and its time; None as the time of a frame that is not chosen. At a frame rate the time is the moment
        at which the frame is on display, and a frame may come several times, in succession.
    """
    if frame_rate is None:
        for index, (time, frame) in enumerate(frames, first_index):
            yield frame, time if index % stride == 0 else None
    else:
        yield from _frames_on_display(frames, stride, frame_rate, interval, end, max_gap)


def _frames_on_display(
    frames: Iterable[tuple[float, T]],
    stride: int,
    frame_rate: float,
    interval: float | None,
    end: float,
    max_gap: float,
) -> Iterator[tuple[T, float | None]]:
    spacing = stride / frame_rate
    stop = _count_ticks(end, stride, frame_rate)
    tick, first, previous, mean = 0, 0.0, 0.0, interval or 0.0
    held: list[T] = []  # the latest frame, whose end is not known yet
    chosen = False  # whether it has been on display at a tick
    for index, (time, frame) in enumerate(frames):
        if not held:
            first, tick = time, math.ceil(time / spacing - _EPSILON)
        else:
            mean = interval or (time - first) / index
            start = float(display_starts(np.array([previous, time]), frame_rate, interval=mean)[0])
            while tick < stop and tick * spacing < start:
                if tick * spacing <= previous + max_gap:
                    yield held[0], tick * spacing
                    chosen = True
                tick += 1
            if not chosen:
                yield held[0], None
        held, previous, chosen = [frame], time, False
        while tick < stop and tick * spacing <= time + _EPSILON:
            yield frame, tick * spacing
            chosen = True
            tick += 1
    while held and tick < min(stop, _count_ticks(previous + mean, stride, frame_rate)):
        yield held[0], tick * spacing
        chosen = True
        tick += 1
    if held and not chosen:
        yield held[0], None


def _count_ticks(end: float, stride: int, frame_rate: float) -> float:
    return math.inf if math.isinf(end) else -(-count_frames(end, frame_rate) // stride)
