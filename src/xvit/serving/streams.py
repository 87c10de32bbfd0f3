"""`WS /v1/stream`: frames in, scores out, with one exact streaming state for each connection.

    client   {"format": "images"}                 pictures, or pieces of a recording     {"end": true}
    server                        {"ready": ...}       {"scores": ...} {"scores": ...}                {"done": ...}

A task receives and decodes; the connection itself pushes what has been decoded, and sends the scores.
"""

import asyncio
import json
import time
from collections import deque
from typing import Annotated, Any

from fastapi import FastAPI, Query, WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from xvit.inference.frame_stream import StreamScores
from xvit.inference.gating import MOTION_THRESHOLD, resolve_ignored
from xvit.inference.predictor import choose_labels, rank_classes, without_unknown
from xvit.serving.errors import ServiceError, describe_validation, error_of
from xvit.serving.live_frames import FRAMES_AHEAD, FrameInput, LiveFrame, PictureInput, Queue, RecordingInput
from xvit.serving.models import ServedModel
from xvit.serving.options import plain
from xvit.serving.security import SUBPROTOCOL
from xvit.serving.service import Service
from xvit.serving.stream_states import StreamEngine, StreamJob
from xvit.serving.work import best

_HELLO_SECONDS = 10.0  # from the connection to the first message
_CLOSE_SECONDS = 5.0  # for a client to read the last message
_SHOWN_CLASSES = 20
# Close codes of RFC 6455, by the status of an error.
_CLOSE_CODES = {413: 1009, 429: 1013, 503: 1013, 500: 1011, 504: 1011}
_POLICY = 1008


class StreamSettings(BaseModel):
    """The first message of a client."""

    model_config = ConfigDict(extra="forbid")

    format: str = Field(pattern="^(images|video)$")
    threshold: float = Field(0.0, ge=0, le=1)


def add_streams(app: FastAPI, service: Service) -> None:
    """Add the route of live streams."""

    @app.websocket("/v1/stream")
    async def stream(websocket: WebSocket, model: Annotated[str | None, Query()] = None) -> None:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            await _serve(websocket, service, model)
        except WebSocketDisconnect:
            return
        except Exception as error:
            states = {websocket.client_state, websocket.application_state}
            is_closed = states != {WebSocketState.CONNECTED} or service.places.draining
            if isinstance(error, RuntimeError) and is_closed:  # starlette's; but PyTorch raises them, too
                return
            answer = error_of(error)
            await _close(websocket, _CLOSE_CODES.get(answer.status, _POLICY), {"error": answer.message})


async def _close(websocket: WebSocket, code: int, message: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await websocket.send_text(json.dumps(message))
            await websocket.close(code)
    except (WebSocketDisconnect, RuntimeError, TimeoutError):
        return


async def _serve(websocket: WebSocket, service: Service, name: str | None) -> None:
    settings = await _receive_settings(websocket)
    model = service.find(name)
    if model.engine is None:
        text = f"model {model.name}: it cannot be streamed; GET /v1/models says which models can"
        raise ServiceError(422, text)
    with service.take_stream():
        ready = {"model": model.name, "class_names": plain(model.class_names), "frame_rate": model.frame_rate}
        await websocket.send_text(json.dumps({"ready": ready}))
        frames: Queue = asyncio.Queue(FRAMES_AHEAD)
        kind = PictureInput if settings.format == "images" else RecordingInput
        source: FrameInput = kind(service, model, frames)
        receiver = asyncio.create_task(_receive(websocket, service, source, frames))
        try:
            count = await _LiveStream(websocket, service, model, model.engine, settings.threshold).run(frames)
        finally:
            receiver.cancel()
            await source.close()
            await asyncio.gather(receiver, return_exceptions=True)
    await _close(websocket, 1000, {"done": {"frames": count}})


async def _receive_settings(websocket: WebSocket) -> StreamSettings:
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            message = await _receive_message(websocket)
    except TimeoutError:
        raise ServiceError(408, f"no first message within {_HELLO_SECONDS:g} s") from None
    expected = 'the first message: expected {"format": "images"} or {"format": "video"}'
    if not isinstance(message, str):
        raise ServiceError(422, expected)
    try:
        return StreamSettings.model_validate_json(message)
    except ValidationError as error:
        raise ServiceError(422, f"{expected} ({describe_validation(error)})") from None


async def _receive_message(websocket: WebSocket) -> str | bytes:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: str | bytes | None = message.get("bytes")
    return message["text"] if data is None else data


async def _receive(websocket: WebSocket, service: Service, source: FrameInput, frames: Queue) -> None:
    """Pass the messages on, until the client ends the stream. An error becomes the last of the frames."""
    limits = service.limits
    try:
        while True:
            try:
                async with asyncio.timeout(limits.stream_idle_seconds):
                    message = await _receive_message(websocket)
            except TimeoutError:
                raise ServiceError(408, f"no message for {limits.stream_idle_seconds:g} s") from None
            if len(message) > limits.message_bytes:
                raise ServiceError(413, f"a message of more than {limits.message_bytes:,} bytes: send smaller ones")
            if isinstance(message, bytes):
                await source.add(message)
            elif _is_end(message):
                return await source.end()
            else:
                raise ServiceError(422, 'a text message: expected {"end": true}; frames are binary messages')
    except Exception as error:
        await frames.put(error)


def _is_end(message: str) -> bool:
    try:
        return json.loads(message) == {"end": True}
    except (ValueError, RecursionError):
        return False


class _LiveStream:
    """The scores of one connection."""

    def __init__(
        self, websocket: WebSocket, service: Service, model: ServedModel, engine: StreamEngine, threshold: float
    ) -> None:
        self.websocket, self.service, self.model, self.threshold = websocket, service, model, threshold
        self.state = engine.open()
        self.ignored = resolve_ignored(model.class_names, None)
        self._pending: deque[tuple[int, LiveFrame]] = deque()  # frames without scores so far
        self._count = 0

    async def run(self, frames: Queue) -> int:
        """Score the frames of a queue until their end; returns their number. Raises the error in the queue.

        Frames are pushed one by one, so that the scores of a single connection are those of `Stream` bit by bit.
        """
        while isinstance(item := await frames.get(), LiveFrame):
            self._pending.append((self._count, item))
            self._count += 1
            await self._push(StreamJob(self.state, item.view[None]))
        if item is not None:
            raise item
        await self._push(StreamJob(self.state, None))
        return self._count

    async def _push(self, job: StreamJob) -> None:
        output = await self.model.stream_batcher.submit(job)
        self.service.metrics.frames.inc(len(output.indices))
        for row, index in enumerate(output.indices):
            while self._pending[0][0] < index:
                self._pending.popleft()
            _, frame = self._pending.popleft()
            text = json.dumps({"scores": self._describe(output, row, index, frame)})
            try:
                async with asyncio.timeout(self.service.limits.stream_idle_seconds):
                    await self.websocket.send_text(text)
            except TimeoutError:
                raise ServiceError(408, "the scores are not read: read them, or end the stream") from None

    def _describe(self, output: StreamScores, row: int, index: int, frame: LiveFrame) -> dict[str, Any]:
        ranked = rank_classes(output, row, self.model.class_names)
        moving = frame.motion >= MOTION_THRESHOLD
        values = {
            "frame": index,
            "time": frame.time,
            "label": choose_labels(ranked, moving=moving, threshold=self.threshold, ignore=self.ignored),
            "labels": plain(best(ranked.labels, _SHOWN_CLASSES)),
            "scores": plain(best(ranked.scores, _SHOWN_CLASSES)),
            "moving": moving,
            "known": ranked.known,
            "lag_seconds": time.monotonic() - frame.arrival,
        }
        return without_unknown(values)
