"""The frames of a live stream, from its messages: single pictures, or the pieces of a recording.

Both give `LiveFrame` objects in the order in which the model sees them, through a queue of a few frames: while it is
full, nothing more is received.
"""

import asyncio
import io
import time
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from xvit.data.capture.source import Frame, Source
from xvit.data.decode.limits import MAX_ASPECT_RATIO
from xvit.inference.gating import MotionMeter
from xvit.inference.streams import view_function
from xvit.serving.errors import ServiceError
from xvit.serving.pieces import MAX_WAITING, PieceReader
from xvit.serving.settings import Limits
from xvit.utils.errors import VideoError, XViTError

if TYPE_CHECKING:
    from xvit.serving.models import ServedModel
    from xvit.serving.service import Service

FRAMES_AHEAD = 16
_POLL_SECONDS = 0.05

Queue = asyncio.Queue["LiveFrame | None | Exception"]  # None: the end


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame that the model sees.

    Args:
        view: (C, S, S) uint8.
        time: seconds from the first frame.
        motion: grey levels; see `MotionMeter`.
        arrival: when it was received, in seconds of `time.monotonic()`.
    """

    view: np.ndarray
    time: float
    motion: float
    arrival: float


class FrameInput(Protocol):
    """Turns messages into frames."""

    async def add(self, data: bytes) -> None:
        """Take a binary message. Raises `ServiceError` if it cannot be used."""

    async def end(self) -> None:
        """No more messages will come."""

    async def close(self) -> None:
        """Stop at once."""


class PictureInput:
    """Messages are pictures, each of which is a frame that the model sees."""

    def __init__(self, service: "Service", model: "ServedModel", frames: Queue) -> None:
        self.service, self.frame_rate, self.frames = service, model.frame_rate, frames
        self._views = view_function(model.model)
        self._meter = MotionMeter(model.model.config.num_frames)
        self._count, self._start = 0, 0.0

    async def add(self, data: bytes) -> None:
        """See `FrameInput`."""
        arrival = time.monotonic()
        self._start = self._start or arrival
        seconds = self._count / self.frame_rate if self.frame_rate else arrival - self._start
        view, motion = await self.service.decode(self._decode, data)
        self._count += 1
        await self.frames.put(LiveFrame(view, seconds, motion, arrival))

    def _decode(self, data: bytes) -> tuple[np.ndarray, float]:
        views = self._views(read_picture(data, self.service.limits)[None])
        [motion] = self._meter.push(views)
        return views[0], motion

    async def end(self) -> None:
        """See `FrameInput`."""
        await self.frames.put(None)

    async def close(self) -> None:
        """See `FrameInput`."""


def read_picture(data: bytes, limits: Limits) -> np.ndarray:
    """Decode a JPEG or WebP picture to (H, W, 3), uint8 RGB. Raises `ServiceError`."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            width, height = picture.size
            if width * height > limits.pixels or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise ServiceError(422, f"a picture of {width}x{height} pixels: send smaller ones")
            return np.array(picture.convert("RGB"))  # a copy, which can be written to
    except ServiceError:
        raise
    except Exception:  # of many kinds, for damaged files
        raise ServiceError(422, "a message is no JPEG or WebP picture: send one picture in each message") from None


class RecordingInput:
    """Messages are successive pieces of a WebM, Matroska or fragmented MP4 recording, read by threads of their own."""

    def __init__(self, service: "Service", model: "ServedModel", frames: Queue) -> None:
        self.limits, self.frames, spec = service.limits, frames, model.clip_spec
        timeout = service.limits.stream_idle_seconds
        self._pieces = PieceReader(timeout)
        self._source = Source("recording", reader=self._pieces, timeout=min(timeout, 3600.0))
        self._spec = spec
        self._views = view_function(model.model)
        self._meter = MotionMeter(model.model.config.num_frames)
        self._loop = asyncio.get_running_loop()
        self._thread = self._loop.run_in_executor(service.readers, self._read)

    async def add(self, data: bytes) -> None:
        """See `FrameInput`."""
        while self._pieces.waiting > MAX_WAITING and not self._thread.done():
            await asyncio.sleep(_POLL_SECONDS)
        self._pieces.write(data)

    async def end(self) -> None:
        """See `FrameInput`."""
        self._pieces.end()

    async def close(self) -> None:
        """See `FrameInput`."""
        self._source.stop()
        self._pieces.end()
        await asyncio.gather(self._thread, return_exceptions=True)

    def _read(self) -> None:
        """Put all frames into the queue, then the end or an error."""
        end: Exception | None = None
        try:
            frames = self._source.frames(
                stride=self._spec.spacing or 1,
                frame_rate=self._spec.frame_rate,
                short_side=self._spec.image_size,
                prepare=lambda rgb: self._views(rgb[None]),
            )
            with closing(frames) as items:
                for item in items:
                    if isinstance(item, Frame):
                        self._put(self._convert(item))
        except ServiceError as error:
            end = error
        except VideoError as error:
            end = ServiceError(422, f"the recording: {error.reason}")
        except (XViTError, CancelledError) as error:
            end = ServiceError(422, f"the recording: {error}")
        except Exception as error:
            end = error
        self._put(end)

    def _convert(self, frame: Frame) -> LiveFrame:
        width, height = frame.size
        if width * height > self.limits.pixels:
            raise ServiceError(422, f"frames of {width}x{height} pixels: send smaller ones")
        [motion] = self._meter.push(frame.pixels)
        return LiveFrame(frame.pixels[0], frame.time, motion, frame.due_time)

    def _put(self, item: "LiveFrame | Exception | None") -> None:
        """Wait until the queue has room, or nobody reads it any more."""
        future = asyncio.run_coroutine_threadsafe(self.frames.put(item), self._loop)
        while not self._source.stopped:
            try:
                return future.result(_POLL_SECONDS)
            except TimeoutError:
                continue
        future.cancel()
