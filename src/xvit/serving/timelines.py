"""Long videos: scores and segments, as lines of JSON while they are made."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from xvit.inference.gating import MOTION_THRESHOLD, resolve_ignored
from xvit.serving import uploads
from xvit.serving.clips import check_video, video_answers
from xvit.serving.errors import ServiceError, error_of, expected_errors
from xvit.serving.models import ServedModel
from xvit.serving.options import TimelineOptions, with_fields
from xvit.serving.service import Service, wait_for_disconnect
from xvit.serving.uploads import Upload
from xvit.timeline.scoring import ScoreTimeline, score_video
from xvit.timeline.segments import default_lengths, find_segments

JSON_LINES = "application/x-ndjson"
_PROGRESS_SECONDS = 0.2  # between two lines of progress

Line = dict[str, Any]


class TimelineResponse(Response):
    """Receives a video and sends its timeline while it is made.

    What goes wrong before the first line is an answer with a status of its own; later, it is the last line.
    """

    media_type = JSON_LINES

    def __init__(self, service: Service, options: TimelineOptions) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.service, self.options = service, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, service = Request(scope, receive), self.service
        on_bytes = service.metrics.upload_bytes.inc
        with expected_errors(), service.places.take():
            async with uploads.receive(request, service.folder, service.limits, on_bytes) as upload:
                options = with_fields(self.options, upload.fields)
                model = service.find(options.model)
                if not model.has_timeline:
                    needed = "one task, one label per video, and a known distance between frames"
                    raise ServiceError(422, f"model {model.name}: no timelines: they need a model with {needed}")
                async with aclosing(make_timeline(service, model, upload, options)) as lines:
                    await self._send_lines(lines, request, send)

    async def _send_lines(self, lines: AsyncGenerator[Line, None], request: Request, send: Send) -> None:
        gone = asyncio.ensure_future(wait_for_disconnect(request))
        started, seconds = False, self.service.limits.deadline_seconds

        async def send_line(line: Line | None) -> None:
            body, more = (b"", False) if line is None else (_encode(line), True)
            try:
                async with asyncio.timeout(seconds):  # a client that reads nothing must not keep its place
                    await send({"type": "http.response.body", "body": body, "more_body": more})
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            while (line := await self._next(lines, gone)) is not None:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send_line(line)
            await send_line(None)
        except ClientDisconnect:
            raise
        except Exception as error:
            if not started:
                raise
            await send_line({"error": error_of(error).message})
            await send_line(None)
        finally:
            gone.cancel()

    async def _next(self, lines: AsyncGenerator[Line, None], gone: "asyncio.Future[None]") -> Line | None:
        """The next line; None at the end."""
        seconds = self.service.limits.deadline_seconds
        task: asyncio.Future[Line | None] = asyncio.ensure_future(anext(lines, None))
        waiting: list[asyncio.Future[Any]] = [task, gone]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if gone.done():
            raise ClientDisconnect
        raise ServiceError(504, f"no progress within {seconds:g} s: send a shorter video, or try again later")


def _encode(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


async def make_timeline(
    service: Service, model: ServedModel, upload: Upload, options: TimelineOptions
) -> AsyncGenerator[Line, None]:
    """The lines of a timeline. Closing the generator stops the work."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[Line | None]()
    stopped, latest = threading.Event(), time.monotonic()

    def on_progress(decoded: int, total: int) -> None:
        nonlocal latest
        if stopped.is_set():
            raise ServiceError(504, "stopped: nobody waits for the timeline any more")
        if time.monotonic() - latest >= _PROGRESS_SECONDS:
            latest = time.monotonic()
            line = {"progress": {"decoded": min(decoded, total), "total": total}}
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(lines.put_nowait, line)

    def work() -> Line:
        on_progress(0, 1)
        with video_answers(upload.path):
            check_video(upload.path, service.limits)
            scores = score_video(
                model.model,
                upload.path,
                predict_every=options.predict_every,
                on_progress=on_progress,
                run_model=lambda function: model.executor.submit(function).result(),
            )
        return {"result": summarize(scores, options.threshold)}

    future = loop.run_in_executor(service.timelines, work)
    future.add_done_callback(lambda _: lines.put_nowait(None))
    try:
        while (line := await lines.get()) is not None:
            yield line
        yield await future
    finally:
        stopped.set()
        future.cancel()


def summarize(scores: ScoreTimeline, threshold: float) -> Line:
    """The scores and the segments of a video, as plain values."""
    segments = find_segments(
        scores.times,
        scores.scores,
        scores.class_names,
        duration=scores.duration,
        threshold=threshold,
        moving=scores.motion >= MOTION_THRESHOLD,
        ignore=resolve_ignored(scores.class_names, None),
        **default_lengths(scores.clip_duration),
    )
    return {
        "duration": scores.duration,
        "class_names": scores.class_names,
        "times": scores.times.tolist(),
        "scores": np.round(scores.scores.astype(np.float64), 7).tolist(),
        "segments": [asdict(segment) for segment in segments],
        "warnings": [*filter(None, [scores.damage]), *scores.warnings],
    }
