"""Frames from what goes on: a file, a camera, an address, the standard input. A thread of its own decodes them.

    source ──▶ reader (decodes, keeps each stride-th frame) ──▶ buffer of 4 frames ──▶ Source.frames()

    file, standard input, http(s) with a length    the reader waits for room in the buffer: nothing is dropped
    the same with real_time                        each frame at its time; a full buffer drops its oldest frame
    camera, any other address                      each frame as it comes; a full buffer drops its oldest frame

Each frame that was read is counted once: as given, skipped (by the stride), dropped, or left in the buffer at a stop.

Not opened: play lists (HLS, DASH), which name other addresses. Pixels that are not square are not stretched.
"""

import math
import os
import re
import stat
import time
from collections.abc import Generator
from dataclasses import dataclass

from xvit.data.capture.connection import SCHEMES, Connection, Frame, FrameCounts, SourceSpec
from xvit.utils.errors import VideoError, XViTError, check_range, did_you_mean

__all__ = ["Frame", "FrameCounts", "Source", "SourceEvent"]

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before reconnecting, doubled each time
_QUIET = 1.0  # seconds between two notices of the same kind of loss


@dataclass(frozen=True, kw_only=True)
class SourceEvent:
    """Something to know beside the frames.

    Args:
        kind: opened, size (it changed), damaged, dropped, reconnecting, reconnected, failed (the end), stride.
        text: one line for people.
        count: packets or frames that it speaks of: those of all notices add up to the tally.
    """

    kind: str
    text: str
    count: int = 0


class Source:
    """Frames of one source, once from its start to its end.

    Args:
        name: a file; a camera (/dev/video0, or its number); an address (rtsp://, http://, ...); - for the standard
            input, which holds a container that can be read forwards, such as mpegts or matroska, or `raw` pictures.
        real_time: give each frame at its time, and drop what nobody takes. Without it files and pipes wait.
        reconnect: how often to try again, with longer and longer waits, after an address was lost; a frame that comes
            starts the count anew. What never gave a frame is not tried again: it may be misspelt.
        timeout: seconds without a frame after which the source counts as lost.
        max_frames: end after so many frames; None for all.
        raw: WIDTHxHEIGHT@RATE of raw rgb24 pictures on the standard input, such as 320x240@25.

    Attributes:
        reconnects: attempts made.
        failed: the source ended by a fault, after some frames.

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
    ) -> None:
        check_range("reconnect", reconnect, 0)
        check_range("timeout", timeout, 0.1, 3600)
        check_range("max_frames", 1 if max_frames is None else max_frames, 1)
        name = os.fspath(name)
        kind = _kind(name)
        shown = re.sub(r"(?<=://)[^/?#]*@", "", name)
        if raw is not None and kind != "pipe":
            raise XViTError(f"raw={raw!r}: raw pictures are read from the standard input only, not from {shown}")
        self.origin = SourceSpec(
            name=name,
            kind=kind,
            shown=shown,
            real_time=real_time,
            timeout=timeout,
            max_frames=max_frames,
            raw=None if raw is None else _raw_options(raw),
        )
        self.reconnect, self.reconnects = reconnect, 0
        self.failed = self.stopped = False
        self._past = FrameCounts()
        self._connection: Connection | None = None
        self._told: dict[str, tuple[int, float]] = {}  # of each kind of loss: how many were reported, and when

    @property
    def tally(self) -> FrameCounts:
        """What was counted so far."""
        return self._past if self._connection is None else self._past + self._connection.tally

    def stop(self) -> None:
        """End `frames` soon, from another thread or from a signal's handler."""
        self.stopped = True  # a plain value: a lock may be held where the signal strikes

    def frames(self, *, stride: int = 1, short_side: int | None = None) -> Generator[Frame | SourceEvent, None, None]:
        """The frames as they come, and notices of all that went wrong. Never waits longer than the timeouts.

        Args:
            stride: give each stride-th frame.
            short_side: pixels wanted; pictures over twice as large are shrunk to it.

        Raises:
            VideoError: a source that gives not one frame.
        """
        origin, shown = self.origin, self.origin.shown
        attempts = 0
        size: tuple[int, int] | None = None
        connection: Connection | None = None
        while True:
            connection = self._connection = Connection(
                origin, stride=stride, short_side=short_side, first=self._past.read, before=connection
            )
            greeting = "reconnected" if self.reconnects else "opened"
            try:
                while (frame := connection.take(lambda: self.stopped)) is not None:
                    if greeting:
                        yield SourceEvent(kind=greeting, text=f"{shown}: {connection.opened}")
                        attempts, greeting = 0, ""
                    if size is not None and size != frame.size:
                        yield SourceEvent(
                            kind="size", text=f"the picture size changes from {_x(size)} to {_x(frame.size)}"
                        )
                    size = frame.size
                    yield from self._losses(quiet=_QUIET)
                    yield frame
            finally:
                connection.close()
                self._past, self._connection = self._past + connection.tally, None
            yield from self._losses(quiet=0)
            reason = connection.reason
            if origin.kind == "live" and self.reconnect and reason is None and self._past.read != origin.max_frames:
                reason = "the connection ended"
            if self.stopped or (reason is None and self._past.read):
                return
            if not self._past.read:
                raise VideoError(shown, reason or f"no frames in it, {self._past.damaged} damaged packets")
            if origin.kind not in ("live", "http") or attempts >= self.reconnect:
                tried = f", not back after {attempts} attempts" if attempts else ""
                self.failed = True
                yield SourceEvent(kind="failed", text=f"{shown}: {reason}{tried}")
                return
            wait = min(_FIRST_WAIT * 2 ** min(attempts, 10), _LONGEST_WAIT)
            attempts, self.reconnects = attempts + 1, self.reconnects + 1
            text = f"{shown}: {reason}; reconnecting in {wait:.1f} s ({attempts} of {self.reconnect})"
            yield SourceEvent(kind="reconnecting", text=text)
            end = time.monotonic() + wait
            while not self.stopped and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))

    def _losses(self, *, quiet: float) -> Generator[SourceEvent, None, None]:
        """Notices of what was lost since the last ones, at most one of a kind in `quiet` seconds."""
        now, tally = time.monotonic(), self.tally
        texts = {
            "dropped": (tally.dropped, "frames dropped: {} (they come quicker than the model takes them)"),
            "damaged": (tally.damaged, "damaged packets or frames: {}"),
        }
        for kind, (count, text) in texts.items():
            told, when = self._told.get(kind, (0, -math.inf))
            if count > told and now - when >= quiet:
                self._told[kind] = count, now
                yield SourceEvent(kind=kind, text=text.format(count - told), count=count - told)


def _kind(name: str) -> str:
    """As `SourceSpec` says."""
    if name == "-":
        return "pipe"
    if "://" in name:
        scheme = name.partition("://")[0].lower()
        if scheme not in SCHEMES:
            known = ", ".join(SCHEMES)
            raise XViTError(f'unknown kind of address "{scheme}://".{did_you_mean(scheme, SCHEMES)} Known: {known}')
        return "http" if scheme.startswith("http") else "live"
    if (name.isascii() and name.isdigit()) or name.startswith("/dev/video"):
        return "camera"
    return "camera" if os.path.exists(name) and stat.S_ISCHR(os.stat(name).st_mode) else "file"


def _raw_options(raw: str) -> dict[str, str]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})@(\d{1,4}(?:\.\d{1,6})?)", raw, flags=re.ASCII)
    if not found or not (int(found[1]) and int(found[2]) and float(found[3])):
        raise XViTError(f"raw={raw!r}: expected WIDTHxHEIGHT@RATE in pixels and frames a second, such as 320x240@25")
    return {"video_size": f"{found[1]}x{found[2]}", "framerate": found[3], "pixel_format": "rgb24"}


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
