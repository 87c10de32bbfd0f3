"""Frames from a file, a camera, an address or the standard input, decoded in a thread of their own.

    source ──▶ thread (decodes, keeps every stride-th frame, resizes) ──▶ buffer of 4 frames ──▶ Source.frames()

    file, standard input, http(s) with a length    the thread waits while the buffer is full: no frame is dropped
    the same with real_time                        each frame at its time; a full buffer drops its oldest frame
    camera, any other address                      each frame as it arrives; a full buffer drops its oldest frame

Each frame read is counted once: as delivered, skipped (by the stride or the frame rate), dropped, or undelivered (in
the buffer when the source was stopped). At a frame rate, a frame that comes again is counted as repeated, and again as
delivered, dropped or undelivered.

Times come from the timestamps: see `xvit.data.decode.clock`. Live streams in formats without timestamps (MJPEG, raw
H.264) are timed by the arrival of their frames.

Not supported: playlists (HLS, DASH), because they refer to other addresses. Non-square pixels are not stretched.
"""

import math
import os
import re
import stat
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from xvit.data.capture.connection import SCHEMES, ByteReader, Connection, Frame, FrameCounts, SourceSpec
from xvit.data.decode.limits import check_dimensions
from xvit.data.sampling import slow_warning
from xvit.utils.errors import VideoError, XViTError, check_range, did_you_mean
from xvit.utils.text import hide_secrets

FIRST_RECONNECT_WAIT = 0.5  # seconds before the first attempt to reconnect; doubled for each further one
_MAX_RECONNECT_WAIT = 30.0  # seconds
_EVENT_INTERVAL = 1.0  # minimum seconds between two events about the same kind of loss
_MIN_MEASURED_SECONDS = 2.0  # of frames, before a source is called slow


@dataclass(frozen=True, kw_only=True)
class SourceEvent:
    """Something that happened to a source, reported between its frames.

    Args:
        kind: opened, size (it changed), damaged, dropped, reconnecting, reconnected, failed (the end), stride, rate
            (it is assumed), slow (the source is slower than what is read from it).
        message: one line for the user.
        count: packets or frames that this event reports; the counts of all events add up to those of the source. A
            file that is cut short is an event without a count.
    """

    kind: str
    message: str
    count: int = 0


class Source:
    """The frames of one source, read once from start to end.

    Args:
        name: a file; a camera (/dev/video0, or its number); an address (rtsp://, http://, ...); - for the standard
            input: a container that can be read without seeking, such as mpegts or matroska, or `raw` frames.
        real_time: deliver each frame at its time, and drop frames that are not consumed in time. Without it files and
            pipes wait for the consumer.
        reconnect: maximum number of attempts to reconnect after an address was lost, with increasing waits; each
            received frame resets the number. An address that never delivered a frame is not tried again, because it
            may be misspelt.
        timeout: seconds without a frame after which the source counts as lost.
        max_frames: end after this many frames; None for all.
        raw: WIDTHxHEIGHT@RATE of raw rgb24 frames on the standard input, such as 320x240@25.
        reader: gives the bytes of a WebM, Matroska or MP4 recording while it is made; `name` is its name in messages.

    Attributes:
        reconnects: attempts to reconnect so far.
        failed: the source ended by a fault, after some frames.
        stopped: `stop` was called.

    Raises:
        XViTError: a value out of its range, an unknown kind of address.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        *,
        real_time: bool = False,
        reconnect: int = 5,
        timeout: float = 10.0,
        max_frames: int | None = None,
        raw: str | None = None,
        reader: ByteReader | None = None,
    ) -> None:
        check_range("reconnect", reconnect, 0)
        check_range("timeout", timeout, 0.1, 3600)
        check_range("max_frames", 1 if max_frames is None else max_frames, 1)
        name = os.fspath(name)
        kind = _source_kind(name) if reader is None else "pipe"
        display_name = hide_secrets(name)
        if raw is not None and kind != "pipe":
            raise XViTError(f"raw={raw!r}: raw frames are read from the standard input only, not from {display_name}")
        raw_options = None if raw is None else _parse_raw(raw)
        self.spec = SourceSpec(name, kind, display_name, real_time, timeout, max_frames, raw_options, reader)
        self.reconnect, self.reconnects = reconnect, 0
        self.failed = self.stopped = False
        self._past_counts = FrameCounts()  # of the closed connections
        self._connection: Connection | None = None
        self._size: tuple[int, int] | None = None  # of the latest frame
        self._needed_rate = 0.0  # frames per second that are read from the source; 0 if it may have any rate
        self._reported: dict[str, tuple[int, float]] = {}  # kind of loss -> number reported, and when

    @property
    def counts(self) -> FrameCounts:
        """Frames counted so far."""
        return self._past_counts if self._connection is None else self._past_counts + self._connection.counts

    def stop(self) -> None:
        """End `frames` soon; may be called from another thread or from a signal handler."""
        self.stopped = True  # not behind a lock, which the code that the signal interrupts may hold

    def frames(
        self,
        *,
        stride: int = 1,
        frame_rate: float | None = None,
        short_side: int | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Generator[Frame | SourceEvent, None, None]:
        """Yield frames as they arrive, and events about all faults. Never waits longer than the timeouts.

        Args:
            stride: yield every stride-th frame.
            frame_rate: frames per second that `stride` counts in: the frame on display each stride / frame_rate seconds
                is yielded, with that time, again if it is on display for longer. A moment after the latest frame is
                settled once the next frame is there. A pause of a source that drops frames is filled for 10 s at most.
                None counts the frames of the source.
            short_side: target size in pixels; frames more than twice as large are shrunk to it.
            prepare: called with the pixels of each frame, in the thread that decodes: its result replaces them.

        Raises:
            VideoError: the source delivers no frame at all.
            XViTError: stride or frame_rate is out of range.
        """
        check_range("stride", stride, 1)
        if frame_rate is not None:
            check_range("frame_rate", frame_rate, 0.001, 1000)
            self._needed_rate = frame_rate / stride
        spec, attempts = self.spec, 0
        connection: Connection | None = None
        while True:
            connection = self._connection = Connection(
                spec,
                stride=stride,
                frame_rate=frame_rate,
                short_side=short_side,
                prepare=prepare,
                first_index=self._past_counts.read,
                previous=connection,
            )
            yield from self._read(connection)
            yield from self._loss_events(min_interval=0)
            if connection.counts.delivered:
                attempts = 0
            num_read, reason = self._past_counts.read, connection.error
            if spec.kind == "live" and self.reconnect and reason is None and num_read != spec.max_frames:
                reason = "the connection ended"
            if self.stopped or (reason is None and num_read):
                return
            if not num_read:
                reason = reason or f"no frames could be read, {self._past_counts.damaged} damaged packets"
                raise VideoError(spec.display_name, reason)
            if spec.kind not in ("live", "http") or attempts >= self.reconnect:
                outcome = f", not back after {attempts} attempts" if attempts else ""
                self.failed = True
                yield SourceEvent(kind="failed", message=f"{spec.display_name}: {reason}{outcome}")
                return
            wait = min(FIRST_RECONNECT_WAIT * 2 ** min(attempts, 10), _MAX_RECONNECT_WAIT)
            attempts, self.reconnects = attempts + 1, self.reconnects + 1
            plan = f"reconnecting in {wait:.1f} s ({attempts} of {self.reconnect})"
            yield SourceEvent(kind="reconnecting", message=f"{spec.display_name}: {reason}; {plan}")
            resume_time = time.monotonic() + wait
            while not self.stopped and (remaining := resume_time - time.monotonic()) > 0:
                time.sleep(min(remaining, 0.1))

    def _read(self, connection: Connection) -> Generator[Frame | SourceEvent, None, None]:
        """Yield the frames and events of one connection, then close it."""
        try:
            while (frame := connection.get(lambda: self.stopped)) is not None:
                if connection.counts.delivered == 1:
                    kind = "reconnected" if self.reconnects else "opened"
                    yield SourceEvent(kind=kind, message=f"{self.spec.display_name}: {connection.description}")
                    if connection.rate_warning:
                        yield SourceEvent(kind="rate", message=connection.rate_warning)
                    if connection.damage:
                        yield SourceEvent(kind="damaged", message=f"{self.spec.display_name}: {connection.damage}")
                if self._size is not None and self._size != frame.size:
                    before, after = (f"{width}x{height}" for width, height in (self._size, frame.size))
                    yield SourceEvent(kind="size", message=f"the frame size changes from {before} to {after}")
                self._size = frame.size
                if connection.seconds >= _MIN_MEASURED_SECONDS:
                    yield from self._slow_event(connection)
                yield from self._loss_events(min_interval=_EVENT_INTERVAL)
                yield frame
            yield from self._slow_event(connection)
        finally:
            connection.close()
            self._past_counts, self._connection = self._past_counts + connection.counts, None

    def _slow_event(self, connection: Connection) -> Generator[SourceEvent, None, None]:
        """Report once that frames are repeated, because the source is slower than what is read from it."""
        if self._needed_rate and connection.num_timed > 1:
            warning = slow_warning((connection.num_timed - 1) / connection.seconds, self._needed_rate)
            if warning:
                self._needed_rate = 0.0
                yield SourceEvent(kind="slow", message=warning)

    def _loss_events(self, *, min_interval: float) -> Generator[SourceEvent, None, None]:
        """Report losses since the last events, at most one event per kind of loss in `min_interval` seconds."""
        now, counts = time.monotonic(), self.counts
        losses = {
            "dropped": (counts.dropped, "frames dropped: {} (they arrive faster than the model processes them)"),
            "damaged": (counts.damaged, "damaged packets or frames: {}"),
        }
        for kind, (count, message) in losses.items():
            reported, when = self._reported.get(kind, (0, -math.inf))
            if count > reported and now - when >= min_interval:
                self._reported[kind] = count, now
                yield SourceEvent(kind=kind, message=message.format(count - reported), count=count - reported)


def _source_kind(name: str) -> str:
    """The kind of a source, as in `SourceSpec`."""
    if name == "-":
        return "pipe"
    if "://" in name:
        scheme = name.partition("://")[0].lower()
        if scheme not in SCHEMES:
            hint = f"{did_you_mean(scheme, SCHEMES)} Known: {', '.join(SCHEMES)}"
            raise XViTError(f'unknown kind of address "{scheme}://".{hint}')
        return "http" if scheme.startswith("http") else "live"
    if (name.isascii() and name.isdigit()) or name.startswith("/dev/video"):
        return "camera"
    return "camera" if os.path.exists(name) and stat.S_ISCHR(os.stat(name).st_mode) else "file"


def _parse_raw(raw: str) -> dict[str, str]:
    """FFmpeg's options for WIDTHxHEIGHT@RATE."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})@(\d{1,4}(?:\.\d{1,6})?)", raw, flags=re.ASCII)
    if not match or not (int(match[1]) and int(match[2]) and float(match[3])):
        raise XViTError(f"raw={raw!r}: expected WIDTHxHEIGHT@RATE in pixels and frames per second, such as 320x240@25")
    check_dimensions(f"raw={raw}", int(match[1]), int(match[2]))
    return {"video_size": f"{match[1]}x{match[2]}", "framerate": match[3], "pixel_format": "rgb24"}
