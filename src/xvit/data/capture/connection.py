"""One opening of a source: the thread that decodes it, and the frame buffer that its consumer reads."""

import logging
import math
import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import av
import numpy as np
from av.container import InputContainer

from xvit.data.decode.clock import MAX_TIME_STEP, Clock, Timing, choose_frames, split_sections
from xvit.data.decode.demux import READ_ERRORS, error_reason, open_video, probe_file, video_errors
from xvit.data.decode.limits import DECODER_OPTIONS, check_dimensions, prepare_decoder
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.data.decode.streams import best_stream, video_streams
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
} | DECODER_OPTIONS
# Frames that are read to recognise a stream without timestamps arrive all at once. The fewer, the better the times.
_LIVE_OPTIONS = _OPTIONS | {"max_ts_probe": "1", "fpsprobesize": "1"}
# Raw MJPEG, which FFmpeg opens only after its first seconds: too late for a live source.
_PIPE_OPTIONS = _OPTIONS | {"format_whitelist": _OPTIONS["format_whitelist"] + ",jpeg_pipe"}
# Pieces of a recording that is still being made, as browsers send them: its first frames are not to be waited for.
_PIECES_OPTIONS = _LIVE_OPTIONS | {"format_whitelist": "matroska,mov", "protocol_whitelist": ""}
_BUFFER_FRAMES = 4  # enough for the frames that a decoder returns at once, few enough to keep the lag small
_ARRIVAL_STEP = 1e-3  # seconds between two frames that arrive at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame of a source.

    Args:
        index: index among all frames of the source, from 0; dropped and skipped frames count. A repeated frame has the
            same index.
        time: seconds from the source's first frame; at a frame rate, the moment at which the frame is on display.
        due_time: when the frame arrived, or in real time should have arrived, in seconds of `time.monotonic()`.
        size: width and height of the stored frame, in pixels.
        pixels: (H, W, 3) uint8 RGB, or what `prepare` made of it. A repeated frame has the same array.
    """

    index: int
    time: float
    due_time: float
    size: tuple[int, int]
    pixels: np.ndarray


@dataclass(kw_only=True)
class FrameCounts:
    """Frames read + repeated = delivered + skipped + dropped + undelivered; `damaged` counts packets and frames.

    `repeated` counts how often a frame came again, because the source is slower than the frame rate.
    """

    read: int = 0
    repeated: int = 0
    delivered: int = 0
    skipped: int = 0
    dropped: int = 0
    undelivered: int = 0
    damaged: int = 0

    def __add__(self, other: "FrameCounts") -> "FrameCounts":
        return FrameCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


class ByteReader(Protocol):
    """Where a source gets the bytes of a container from, in place of the standard input."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are some; none at the end. Raises `TimeoutError`."""


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
    reader: ByteReader | None = None  # of a pipe other than the standard input

    @property
    def timeout_message(self) -> str:
        """The reason to report when no frame came within the timeout."""
        return f"no frame for {self.timeout:g} s"

    def _hint(self) -> str:
        """What to do if the source cannot be opened."""
        if self.kind == "pipe":
            return ": a pipe needs a container that can be read without seeking, such as mpegts or matroska"
        if re.fullmatch(r"https?://[^?#]*\.(m3u8|mpd)([?#].*)?", self.name, re.IGNORECASE):
            return ": a playlist refers to other addresses: pipe it, with ffmpeg -i ADDRESS -c copy -f mpegts - | ..."
        return ""

    @contextmanager
    def open(self, connection: "Connection") -> Iterator[tuple[InputContainer, av.VideoStream]]:
        """Open the source and yield its container and its video stream; raise `VideoError` if that is not possible."""
        if self.kind == "file":
            with open_video(self.name) as opened:
                yield opened
            return
        options: dict[str, Any] = {"options": _LIVE_OPTIONS, "timeout": (self.timeout, self.timeout)}
        target: Any = self.name
        if self.kind == "camera":
            target = f"/dev/video{self.name}" if self.name.isdigit() else self.name
            if not os.path.exists(target):
                raise VideoError(target, "no such camera")
            options |= {"format": "v4l2", "options": DECODER_OPTIONS}
        if self.reader is not None:
            target, options = self.reader, {"options": _PIECES_OPTIONS}
        elif self.kind == "pipe":
            target = _StandardInput(connection)
            options = {"format": "rawvideo" if self.raw_options else None, "options": self.raw_options or _PIPE_OPTIONS}
        with video_errors(self.display_name, "cannot be opened" + self._hint()):
            try:
                container: InputContainer = av.open(target, "r", **options)
            except (av.error.ExitError, TimeoutError):
                raise VideoError(self.display_name, self.timeout_message) from None
            except av.error.ProtocolNotFoundError:
                scheme = self.name.partition("://")[0]
                reason = f"the FFmpeg in the installed PyAV was built without {scheme}://; send another protocol"
                raise VideoError(self.display_name, reason) from None
        with container:
            streams = video_streams(self.display_name, container)
            stream = best_stream(streams, {stream.index: stream.frames for stream in streams})
            prepare_decoder(self.display_name, stream)
            yield container, stream


class Connection:
    """A thread that reads a source, and its frame buffer.

    A thread that hangs in a system call cannot be stopped. It is abandoned, and its later frames are ignored.
    `first_index` is the number of frames read by earlier connections; the time of the `previous` one is continued.
    """

    def __init__(
        self,
        spec: SourceSpec,
        *,
        stride: int,
        frame_rate: float | None,
        short_side: int | None,
        prepare: Callable[[np.ndarray], np.ndarray] | None,
        first_index: int,
        previous: "Connection | None",
    ) -> None:
        self.spec, self.stride, self.frame_rate, self.short_side = spec, stride, frame_rate, short_side
        self.prepare, self.first_index = prepare, first_index
        self.start_time: float | None = previous.start_time if previous else None  # when the first frame arrived
        self.time: float = previous.time if previous else 0.0  # seconds from the first frame to the latest one
        self.counts = FrameCounts()  # of this connection
        self.description = ""  # size, codec, rate and dropping policy, once the source is open
        self.rate_warning = ""  # that its frame rate is assumed
        self.damage = ""  # how a file is cut short
        self.num_timed, self.seconds = 0, 0.0  # frames of this connection, and the time from the first to the latest
        self.error: str | None = None  # why the source ended too early
        self.closed = self._finished = self._endless = self._drop_oldest = False
        self._fault: Exception | None = None  # to be raised after the frames before it
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
        spec, context, timing = self.spec, stream.codec_context, Timing.of(container, stream)
        self._endless = spec.kind in ("camera", "live") or (spec.kind == "http" and container.size <= 0)
        self._drop_oldest = spec.real_time or self._endless
        policy = "the oldest frames are dropped if necessary" if self._drop_oldest else "no frame is dropped"
        rate = "" if self._endless else f" {timing.rate:.4g} frames/s,"  # stated in the headers, not measured
        self.rate_warning = "" if self._endless else timing.warning
        self.description = f"{context.width}x{context.height}, {context.codec.canonical_name},{rate} {policy}"
        self._last_activity = time.monotonic()
        interval, end = None, math.inf
        if spec.kind == "file":
            info = probe_file(spec.name)
            self.damage = info.damage
            if self.frame_rate is not None:
                interval, end = 1 / info.fps, info.duration
        chosen = choose_frames(
            self._timed_frames(self._decoded_frames(self._packets(container, stream, timing), stream), timing),
            stride=self.stride,
            frame_rate=self.frame_rate,
            interval=interval,
            end=end,
            first_index=self.first_index,
            max_gap=MAX_TIME_STEP if self._drop_oldest else math.inf,
        )
        converted, pixels = None, np.empty(0)
        for decoded, frame_time in chosen:
            if frame_time is None:
                self._put(None)
            else:
                index, image, orientation = decoded
                due_time = time.monotonic()
                if spec.real_time and not self._endless and self.start_time is not None:
                    due_time = self.start_time + frame_time
                self._wait_until(due_time)
                repeated = decoded is converted
                if not repeated:
                    check_dimensions(spec.display_name, image.width, image.height)
                    rgb = np.ascontiguousarray(frame_to_rgb(image, orientation, self.short_side))
                    converted, pixels = decoded, self.prepare(rgb) if self.prepare else rgb
                size = image.width, image.height
                frame = Frame(index=index, time=frame_time, due_time=due_time, size=size, pixels=pixels)
                self._put(frame, repeated=repeated)
            if self.closed:
                return
        if self._fault is not None:
            raise self._fault

    def _timed_frames(
        self, frames: Iterator[av.VideoFrame], timing: Timing
    ) -> Iterator[tuple[float, tuple[int, av.VideoFrame, Orientation]]]:
        """Yield the time of each frame, its index, the frame and how it is shown, up to the last one or a fault."""
        start, orientation = 0.0, Orientation()
        if self.start_time is not None:  # time has passed since the previous connection was lost
            start = max(time.monotonic() - self.start_time, self.time + 1 / timing.rate)
        clock = timing.clock(start=start, max_step=MAX_TIME_STEP if self._drop_oldest else math.inf)
        by_arrival = timing.raw and self._endless
        if by_arrival:
            clock = Clock(_ARRIVAL_STEP, start=start)
        try:
            for index, image in enumerate(frames, self.first_index):
                self._last_activity = now = time.monotonic()
                orientation = read_orientation(image, orientation)
                if self.start_time is None:
                    self.start_time = now
                    if not orientation.exact:
                        _logger.warning("%s: %s", self.spec.display_name, ODD_MATRIX)
                self.time = clock.tick(now if by_arrival else timing.seconds(image))
                self.seconds = self.time - start  # first: the consumer's thread divides by it once there are 2 frames
                self.num_timed += 1
                yield self.time, (index, image, orientation)
                if self.closed or index + 1 == self.spec.max_frames:
                    return
        except Exception as error:
            self._fault = error

    def _packets(
        self, container: InputContainer, stream: av.VideoStream, timing: Timing
    ) -> "Iterator[av.Packet[av.VideoStream]]":
        """Yield the packets, and count those that the container marks as damaged: decoders do not flag their frames.

        Where recordings are joined, FFmpeg marks one of the last two packets of the first one, although it may be
        whole: it does not count.
        """
        marks: deque[bool] = deque([False, False], maxlen=2)  # of the latest two packets
        latest: int | None = None
        try:
            for packet in container.demux(stream):
                if len(split_sections([latest, packet.dts], timing.max_step / timing.time_base)) > 1:
                    marks.extend([False, False])
                latest = latest if packet.dts is None else packet.dts
                self.counts.damaged += marks[0]
                marks.append(packet.is_corrupt)
                yield packet
        finally:
            self.counts.damaged += sum(marks)

    def _decoded_frames(
        self, packets: "Iterator[av.Packet[av.VideoStream]]", stream: av.VideoStream
    ) -> Iterator[av.VideoFrame]:
        """Yield the decoded frames; packets that cannot be decoded are counted and left out."""
        try:
            for packet in packets:
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

    def _put(self, frame: Frame | None, *, repeated: bool = False) -> None:
        """Count a frame as read, or as repeated, and put it into the buffer; None for a skipped one."""
        with self._condition:
            while frame and len(self._frames) >= _BUFFER_FRAMES and not self._drop_oldest and not self.closed:
                self._condition.wait()
            if self.closed:
                return
            self.counts.read += not repeated
            self.counts.repeated += repeated
            self._last_activity = time.monotonic()
            if frame is None:
                self.counts.skipped += 1
                return
            self._frames.append(frame)
            # A frame that is repeated counts once here: its repetitions come all at once, with the next frame.
            while self._drop_oldest and len({buffered.index for buffered in self._frames}) > _BUFFER_FRAMES:
                self._frames.popleft()
                self.counts.dropped += 1
            self._condition.notify_all()


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
