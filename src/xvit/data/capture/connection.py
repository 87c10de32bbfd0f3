"""One opening of a source: the thread that decodes it, and the buffer between that and the one who takes the frames."""

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream

from xvit.data.decode.probe import MAX_ASPECT, READ_ERRORS, open_video, reasons
from xvit.data.decode.video import upright_rgb
from xvit.utils.errors import VideoError

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "tcp")
# As for files: nothing that names other files or addresses, and no address that is a file of this machine.
_OPTIONS = {
    "format_whitelist": "rtsp,mpegts,matroska,mov,flv,live_flv,avi,ogg,nut,ivf,gif,h264,hevc,m4v,mpeg,mpegvideo,mjpeg,"
    "mpjpeg,yuv4mpegpipe",
    "protocol_whitelist": ",".join((*SCHEMES, "httpproxy", "tls", "rtp", "srtp")),
    "rtsp_transport": "tcp",  # over UDP each lost packet is a damaged picture
}
_ROOM = 4  # frames in the buffer: enough for those that a decoder gives at once, few enough not to lag behind
_JUMP = 10.0  # seconds from one timestamp to the next beyond which they are not believed
_PARTING = 0.5  # seconds that a reader gets to end


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame of a source.

    Args:
        index: its number among the frames that the source gave, from 0; dropped and skipped ones count.
        time: seconds from the source's first frame.
        due: when it came, or in real time should have come, in seconds of `time.monotonic()`.
        size: width and height of the stored picture, in pixels.
        pixels: (3, H, W) uint8 RGB.
    """

    index: int
    time: float
    due: float
    size: tuple[int, int]
    pixels: torch.Tensor


@dataclass(kw_only=True)
class FrameCounts:
    """Frames read = given + skipped + dropped + left; packets or frames damaged."""

    read: int = 0
    given: int = 0
    skipped: int = 0
    dropped: int = 0
    left: int = 0
    damaged: int = 0

    def __add__(self, other: "FrameCounts") -> "FrameCounts":
        names = self.__dataclass_fields__
        return FrameCounts(**dict(zip(names, map(sum, zip(astuple(self), astuple(other), strict=True)), strict=True)))


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """What to open, and how to read it.

    Args:
        name: a file, a camera, an address, or -.
        kind: file, camera, pipe, http (its end is announced), or live (an address that has no end).
        shown: the name without a password.
        real_time: give each frame at its time.
        timeout: seconds without a frame after which it counts as lost.
        max_frames: of the source; None for all.
        raw: FFmpeg's options of raw pictures on the standard input.
    """

    name: str
    kind: str
    shown: str
    real_time: bool
    timeout: float
    max_frames: int | None
    raw: dict[str, str] | None

    @property
    def silence(self) -> str:
        """What to say where it does not go on."""
        return f"no frame for {self.timeout:g} s"

    @contextmanager
    def open(self, connection: "Connection") -> Iterator[tuple[InputContainer, VideoStream]]:
        """The open container and its video.

        Raises:
            VideoError: it cannot be opened, or holds no video.
        """
        if self.kind == "file":
            with open_video(self.name) as opened:
                yield opened
            return
        options: dict[str, Any] = {"options": _OPTIONS, "timeout": (self.timeout, self.timeout)}
        place: Any = self.name
        if self.kind == "camera":
            place = f"/dev/video{self.name}" if self.name.isdigit() else self.name
            if not os.path.exists(place):
                raise VideoError(place, "no such camera")
            options |= {"format": "v4l2", "options": {}}
        if self.kind == "pipe":
            place = _Pipe(connection)
            options = {"options": _OPTIONS} if self.raw is None else {"format": "rawvideo", "options": self.raw}
        forwards = " as a stream that is read forwards, such as mpegts or matroska" if self.kind == "pipe" else ""
        with reasons(self.shown, f"cannot be opened{forwards}"):
            try:
                container: InputContainer = av.open(place, "r", **options)
            except (av.error.ExitError, TimeoutError):
                raise VideoError(self.shown, self.silence) from None
        with container:
            if not container.streams.video or container.streams.video[0].codec_context is None:
                raise VideoError(self.shown, "no video in it that can be decoded")
            container.streams.video[0].codec_context.thread_count = 1
            yield container, container.streams.video[0]


class Connection:
    """A thread that reads a source, and its buffer.

    A reader that hangs in a system's call cannot be stopped: it is left behind, and what it may still bring is ignored.

    Args:
        origin: what to read.
        stride: keep each stride-th frame.
        short_side: pixels wanted; None for the picture as it is.
        first: frames that came before this opening.
        before: the opening before, whose time goes on.

    Attributes:
        tally: what was counted; it starts at 0.
        opened: a description, once it is open.
        reason: why it ended before its end.
        began: when the source's first frame came, in seconds of `time.monotonic()`; None before.
        time: seconds, of the latest frame.
    """

    def __init__(
        self, origin: SourceSpec, *, stride: int, short_side: int | None, first: int, before: "Connection | None"
    ) -> None:
        self.origin, self.stride, self.short_side, self.first = origin, stride, short_side, first
        self.began: float | None = before.began if before else None
        self.time: float = before.time if before else 0.0
        self.tally = FrameCounts()
        self.opened = ""
        self.reason: str | None = None
        self.closed = self._ended = self._drops = False
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._sign = time.monotonic()  # of life: when it was opened, when a frame came
        self._thread = threading.Thread(target=self._read, name="xvit-source", daemon=True)
        self._thread.start()

    def take(self, stopped: Callable[[], bool]) -> Frame | None:
        """The next frame; None at the end, after `reason` was set if it is a fault, or when it was `stopped`."""
        timeout, asked = self.origin.timeout, time.monotonic()
        with self._changed:
            while not self._frames and not self._ended and not stopped():
                patience = timeout if self.opened else 2 * timeout + 1  # to connect, and to look at the first frames
                left = max(asked, self._sign) + patience - time.monotonic()
                if left <= 0:
                    self.reason = self.origin.silence
                    return None
                self._changed.wait(min(left, 0.2))
            if stopped() or not self._frames:
                return None
            self.tally.given += 1
            self._changed.notify_all()
            return self._frames.popleft()

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self.closed = True
            self.tally.left += len(self._frames)
            self._frames.clear()
            self._changed.notify_all()
        self._thread.join(_PARTING)  # a thread at work when the interpreter ends may take the process down with it

    def _read(self) -> None:
        """What the thread does."""
        reason = None
        try:
            with self.origin.open(self) as (container, stream):
                self._drops = self.origin.real_time or self.origin.kind in ("camera", "live")
                self._drops |= self.origin.kind == "http" and container.size <= 0
                self._decode(container, stream)
        except VideoError as error:
            reason = error.reason
        except (av.error.ExitError, TimeoutError):
            reason = self.origin.silence
        except Exception as error:  # a thread that ends in silence would look like a source that stalls
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            hint = "; a pipe is read forwards: mpegts or matroska, not mp4" if self.origin.kind == "pipe" else ""
            reason = f"cannot be read to its end ({' '.join(str(text).lower().split())}{hint})"
        with self._changed:
            if not self.closed and self.reason is None:
                self.reason = reason
            self._ended = True
            self._changed.notify_all()

    def _decode(self, container: InputContainer, stream: VideoStream) -> None:
        origin, context = self.origin, stream.codec_context
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        policy = "the oldest frames are dropped if need be" if self._drops else "no frame is dropped"
        step = min(max(1 / rate, 1e-3), 1.0) if rate > 0 else 0.04
        start = 0.0  # after a break, time has gone on
        if self.began is not None:
            start = max(time.monotonic() - self.began, self.time + step)
        self.opened = f"{context.width}x{context.height}, {context.codec.canonical_name}, {rate:.4g} frames/s, {policy}"
        self._sign = time.monotonic()
        clock = _Clock(start, step)
        for picture in self._pictures(container, stream):
            index, moment = self.first + self.tally.read, clock(picture.time)
            if self.began is None:
                self.began = time.monotonic()
            if index % self.stride:
                self._count()
            else:
                if origin.real_time and origin.kind in ("file", "pipe", "http"):
                    due = self.began + moment
                    self._wait_until(due)
                else:
                    due = time.monotonic()
                pixels = _rgb(picture, self.short_side)
                size = picture.width, picture.height
                self._put(Frame(index=index, time=moment, due=due, size=size, pixels=pixels))
            if self.closed:
                return
            self.time = moment
            if index + 1 == origin.max_frames:
                return

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        """Decoded frames; what cannot be decoded is counted and left out."""
        packets = container.demux(stream)
        while not self.closed:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception:
                held: list[av.VideoFrame] = []
                with suppress(*READ_ERRORS):
                    held = stream.codec_context.decode(None)
                yield from held  # they came before the fault
                raise
            try:
                pictures = packet.decode()
            except READ_ERRORS:
                self.tally.damaged += 1
                continue
            for picture in pictures:
                self.tally.damaged += bool(picture.is_corrupt)
                yield picture

    def _wait_until(self, due: float) -> None:
        with self._changed:
            while not self.closed and (left := due - time.monotonic()) > 0:
                self._sign = time.monotonic()  # it waits on purpose
                self._changed.wait(min(left, 0.1))

    def _count(self) -> None:
        with self._changed:
            if not self.closed:
                self.tally.read += 1
                self.tally.skipped += 1
                self._sign = time.monotonic()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            while len(self._frames) >= _ROOM and not self._drops and not self.closed:
                self._changed.wait()
            if self.closed:
                return
            if len(self._frames) >= _ROOM:
                self._frames.popleft()
                self.tally.dropped += 1
            self._frames.append(frame)
            self.tally.read += 1
            self._sign = time.monotonic()
            self._changed.notify_all()


class _Clock:
    """Timestamps -> seconds that only go up: where a timestamp is missing, goes back or jumps, one frame's time."""

    def __init__(self, start: float, step: float) -> None:
        self.time, self.step = start - step, step
        self.stamp: float | None = None

    def __call__(self, stamp: float | None) -> float:
        passed = self.step if stamp is None or self.stamp is None else stamp - self.stamp
        self.time += passed if 0 < passed <= _JUMP else self.step
        self.stamp = stamp if stamp is not None or self.stamp is None else self.stamp + self.step
        return self.time


class _Pipe:
    """The standard input, as PyAV reads it: never waiting longer than the source's timeout."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        try:
            self.file = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            raise VideoError("-", "there is no standard input") from None
        if os.isatty(self.file):
            raise VideoError("-", "the standard input is a terminal: pipe a video into it")

    def read(self, size: int) -> bytes:
        end = time.monotonic() + self.connection.origin.timeout
        while not self.connection.closed:
            if select.select([self.file], [], [], 0.1)[0]:
                return os.read(self.file, size)
            if time.monotonic() > end:
                raise TimeoutError(self.connection.origin.silence)
        return b""


def _rgb(frame: av.VideoFrame, short_side: int | None) -> torch.Tensor:
    """(3, H, W) uint8, the same pixels as `xvit.data.decode.video.decode` gives."""
    width, height = frame.width, frame.height
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError("", f"a picture of {width}x{height} pixels is no video")
    return torch.from_numpy(np.ascontiguousarray(upright_rgb(frame, short_side))).permute(2, 0, 1)
