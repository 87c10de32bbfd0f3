"""One opening of a source: the thread that decodes it, and the frame buffer that its consumer reads."""

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer

from xvit.data.decode.demux import READ_ERRORS, check_aspect_ratio, error_reason, open_video, video_errors
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.data.decode.video import frame_to_rgb
from xvit.utils.errors import VideoError

_logger = logging.getLogger("xvit")

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp")
# As for files: no format that refers to other files or addresses, and no address that is a file of this machine.
_OPTIONS = {
    "format_whitelist": "rtsp,mpegts,matroska,mov,flv,live_flv,avi,ogg,nut,ivf,gif,h264,hevc,m4v,mpeg,mpegvideo,mjpeg,"
    "mpjpeg,yuv4mpegpipe",
    "protocol_whitelist": ",".join((*SCHEMES, "httpproxy", "tls", "rtp", "srtp")),
    "rtsp_transport": "tcp",  # over UDP each lost packet damages a frame
}
_BUFFER_FRAMES = 4  # enough for the frames that a decoder returns at once, few enough to keep the lag small
_MAX_TIME_STEP = 10.0  # seconds between two timestamps; larger steps are ignored


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame of a source.

    Args:
        index: index among all frames of the source, from 0; dropped and skipped frames count.
        time: seconds from the source's first frame.
        due_time: when the frame arrived, or in real time should have arrived, in seconds of `time.monotonic()`.
        size: width and height of the stored frame, in pixels.
        pixels: (3, H, W) uint8 RGB.
    """

    index: int
    time: float
    due_time: float
    size: tuple[int, int]
    pixels: torch.Tensor


@dataclass(kw_only=True)
class FrameCounts:
    """Frames read = delivered + skipped + dropped + undelivered; `damaged` counts packets and frames."""

    read: int = 0
    delivered: int = 0
    skipped: int = 0
    dropped: int = 0
    undelivered: int = 0
    damaged: int = 0

    def __add__(self, other: "FrameCounts") -> "FrameCounts":
        return FrameCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class SourceSpec:
    """What to open, and how to read it. What is not explained here is an argument of `Source`."""

    name: str
    kind: str  # file, camera, pipe, http (its end is announced), or live (an address without an end)
    display_name: str  # without a password
    real_time: bool
    timeout: float
    max_frames: int | None
    raw_options: dict[str, str] | None  # FFmpeg's options for raw frames on the standard input; None for a container

    @property
    def timeout_message(self) -> str:
        """The reason to report when no frame came within the timeout."""
        return f"no frame for {self.timeout:g} s"

    @contextmanager
    def open(self, connection: "Connection") -> Iterator[tuple[InputContainer, av.VideoStream]]:
        """Open the source and yield its container and its video stream; raise `VideoError` if that is not possible."""
        if self.kind == "file":
            with open_video(self.name) as opened:
                yield opened
            return
        options: dict[str, Any] = {"options": _OPTIONS, "timeout": (self.timeout, self.timeout)}
        target: Any = self.name
        if self.kind == "camera":
            target = f"/dev/video{self.name}" if self.name.isdigit() else self.name
            if not os.path.exists(target):
                raise VideoError(target, "no such camera")
            options |= {"format": "v4l2", "options": {}}
        if self.kind == "pipe":
            target = _StandardInput(connection)
            options = {"format": "rawvideo" if self.raw_options else None, "options": self.raw_options or _OPTIONS}
        hint = ": a pipe needs a container that can be read without seeking, such as mpegts or matroska"
        with video_errors(self.display_name, "cannot be opened" + hint * (self.kind == "pipe")):
            try:
                container: InputContainer = av.open(target, "r", **options)
            except (av.error.ExitError, TimeoutError):
                raise VideoError(self.display_name, self.timeout_message) from None
        with container:
            if not container.streams.video or container.streams.video[0].codec_context is None:
                raise VideoError(self.display_name, "it has no video that can be decoded")
            container.streams.video[0].codec_context.thread_count = 1
            yield container, container.streams.video[0]


class Connection:
    """A thread that reads a source, and its frame buffer.

    A thread that hangs in a system call cannot be stopped. It is abandoned, and its later frames are ignored.
    `first_index` is the number of frames read by earlier connections; the time of the `previous` one is continued.
    """

    def __init__(
        self, spec: SourceSpec, *, stride: int, short_side: int | None, first_index: int, previous: "Connection | None"
    ) -> None:
        self.spec, self.stride, self.short_side, self.first_index = spec, stride, short_side, first_index
        self.start_time: float | None = previous.start_time if previous else None  # when the first frame arrived
        self.time: float = previous.time if previous else 0.0  # seconds from the first frame to the latest one
        self.counts = FrameCounts()  # of this connection
        self.description = ""  # size, codec, rate and dropping policy, once the source is open
        self.error: str | None = None  # why the source ended too early
        self.closed = self._finished = self._drop_oldest = False
        self._frames: deque[Frame] = deque()
        self._condition = threading.Condition()
        self._last_activity = time.monotonic()  # when the source was opened, or a frame came
        self._thread = threading.Thread(target=self._run, name="xvit-source", daemon=True)
        self._thread.start()

    def get(self, stopped: Callable[[], bool]) -> Frame | None:
        """Return the next frame; None at the end, after a fault (which sets `error`), or once `stopped` is true."""
        timeout, call_time = self.spec.timeout, time.monotonic()
        with self._condition:
            while not self._frames and not self._finished and not stopped():
                limit = timeout if self.description else 2 * timeout + 1  # to connect, and to read the first frames
                remaining = max(call_time, self._last_activity) + limit - time.monotonic()
                if remaining <= 0:
                    self.error = self.spec.timeout_message
                    return None
                self._condition.wait(min(remaining, 0.2))
            if stopped() or not self._frames:
                return None
            self.counts.delivered += 1
            self._condition.notify_all()
            return self._frames.popleft()

    def close(self) -> None:
        """Stop reading, and discard the frames in the buffer."""
        with self._condition:
            self.closed = True
            self.counts.undelivered += len(self._frames)
            self._frames.clear()
            self._condition.notify_all()
        self._thread.join(0.5)  # a thread that still runs when the interpreter exits may crash the process

    def _run(self) -> None:
        """Open and decode the source in the thread."""
        reason = None
        try:
            with self.spec.open(self) as (container, stream):
                self._decode(container, stream)
        except VideoError as error:
            reason = error.reason
        except (av.error.ExitError, TimeoutError):
            reason = self.spec.timeout_message
        except Exception as error:  # if the thread ended silently, the source would seem to stall
            hint = "; a pipe cannot seek: use mpegts or matroska, not mp4" if self.spec.kind == "pipe" else ""
            reason = f"cannot be read to its end ({error_reason(error)}{hint})"
        with self._condition:
            if not self.closed and self.error is None:
                self.error = reason
            self._finished = True
            self._condition.notify_all()

    def _decode(self, container: InputContainer, stream: av.VideoStream) -> None:
        spec, context = self.spec, stream.codec_context
        endless = spec.kind in ("camera", "live")
        self._drop_oldest = spec.real_time or endless or (spec.kind == "http" and container.size <= 0)
        policy = "the oldest frames are dropped if necessary" if self._drop_oldest else "no frame is dropped"
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        step = min(max(1 / rate, 1e-3), 1.0) if rate > 0 else 0.04
        start = 0.0
        if self.start_time is not None:  # time has passed since the previous connection was lost
            start = max(time.monotonic() - self.start_time, self.time + step)
        size, codec = f"{context.width}x{context.height}", context.codec.canonical_name
        self.description = f"{size}, {codec}, {rate:.4g} frames/s, {policy}"
        self._last_activity = time.monotonic()
        orientation = Orientation()
        for frame_time, image in _with_times(self._decoded_frames(container, stream), start, step):
            orientation = read_orientation(image, orientation)
            index = self.first_index + self.counts.read
            if self.start_time is None:
                self.start_time = time.monotonic()
                if not orientation.exact:
                    _logger.warning("%s: %s", spec.display_name, ODD_MATRIX)
            if index % self.stride:
                self._put(None)
            else:
                due_time = self.start_time + frame_time if spec.real_time and not endless else time.monotonic()
                self._wait_until(due_time)
                check_aspect_ratio("", image.width, image.height)
                rgb = np.ascontiguousarray(frame_to_rgb(image, orientation, self.short_side))
                pixels, shape = torch.from_numpy(rgb).permute(2, 0, 1), (image.width, image.height)
                self._put(Frame(index=index, time=frame_time, due_time=due_time, size=shape, pixels=pixels))
            if self.closed:
                return
            self.time = frame_time
            if index + 1 == spec.max_frames:
                return

    def _decoded_frames(self, container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """Yield the decoded frames; packets that cannot be decoded are counted and left out."""
        try:
            for packet in container.demux(stream):
                frames: list[av.VideoFrame] = []
                try:
                    frames = packet.decode()
                except READ_ERRORS:
                    self.counts.damaged += 1
                for frame in frames:
                    self.counts.damaged += bool(frame.is_corrupt)
                    yield frame
                if self.closed:
                    return
        except Exception:
            with suppress(*READ_ERRORS):
                yield from stream.codec_context.decode(None)  # frames that the decoder still held
            raise

    def _wait_until(self, due_time: float) -> None:
        with self._condition:
            while not self.closed and (remaining := due_time - time.monotonic()) > 0:
                self._last_activity = time.monotonic()  # this wait is intended: it is no timeout
                self._condition.wait(min(remaining, 0.1))

    def _put(self, frame: Frame | None) -> None:
        """Count a frame as read and put it into the buffer; None for a skipped one."""
        with self._condition:
            while frame and len(self._frames) >= _BUFFER_FRAMES and not self._drop_oldest and not self.closed:
                self._condition.wait()
            if self.closed:
                return
            self.counts.read += 1
            self._last_activity = time.monotonic()
            if frame is None:
                self.counts.skipped += 1
                return
            if len(self._frames) >= _BUFFER_FRAMES:
                self._frames.popleft()
                self.counts.dropped += 1
            self._frames.append(frame)
            self._condition.notify_all()


def _with_times(frames: Iterator[av.VideoFrame], start: float, step: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield increasing seconds with each frame: a missing, falling or jumping timestamp advances by one frame."""
    seconds, previous = start - step, None
    for frame in frames:
        timestamp = frame.time
        if timestamp is None and previous is not None:
            timestamp = previous + step
        elapsed = step if timestamp is None or previous is None else timestamp - previous
        seconds += elapsed if 0 < elapsed <= _MAX_TIME_STEP else step
        previous = timestamp
        yield seconds, frame


class _StandardInput:
    """The standard input as a file object for PyAV; a read never waits longer than the source's timeout."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        try:
            self.file = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            raise VideoError("-", "there is no standard input") from None
        if os.isatty(self.file):
            raise VideoError("-", "the standard input is a terminal: pipe a video into it")

    def read(self, size: int) -> bytes:
        deadline = time.monotonic() + self.connection.spec.timeout
        while not self.connection.closed:
            if select.select([self.file], [], [], 0.1)[0]:
                return os.read(self.file, size)
            if time.monotonic() > deadline:
                raise TimeoutError(self.connection.spec.timeout_message)
        return b""
