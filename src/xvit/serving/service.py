"""What all requests share: the models, the queue, the threads that decode, the folder of the uploads."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from xvit.serving import uploads
from xvit.serving.errors import ServiceError, expected_errors
from xvit.serving.folders import private_folder
from xvit.serving.metrics import Metrics
from xvit.serving.models import ServedModel
from xvit.serving.places import Places
from xvit.serving.samples import Sample, write_samples
from xvit.serving.settings import Limits
from xvit.serving.uploads import Upload
from xvit.utils.errors import did_you_mean

Result = TypeVar("Result")


class Service:
    """The state of a running service.

    Args:
        models: by name; the first one is the default.
        limits: of what is accepted.

    Attributes:
        folder: private, for uploads and samples; there from `open` to `close`.
        open_streams: number of live streams.
    """

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self.models, self.limits = dict(models), limits
        self.places = Places(limits.queue)
        self.metrics = Metrics(self.places)
        self.ready = False
        self.open_streams = 0
        self.samples: list[Sample] = []
        self._decoders = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="xvit-decode")
        # Apart, because a long video may take minutes.
        self.timelines = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="xvit-timeline")
        # For recordings of live streams, which last as long as these.
        self.readers = ThreadPoolExecutor(max(limits.streams, 1), thread_name_prefix="xvit-reader")
        self._stack = ExitStack()

    async def open(self) -> None:
        """Make the folder, the samples and the batchers; to be called in the event loop."""
        self.folder: Path = self._stack.enter_context(private_folder())
        for model in self.models.values():
            model.open(self.limits, self.metrics, self.places)
        self.samples = await asyncio.to_thread(write_samples, self.folder, list(self.models.values()))
        self.ready = True

    async def close(self) -> None:
        """End the threads and remove the folder."""
        self.ready = False
        async with AsyncExitStack() as stack:
            stack.callback(self._stack.close)
            for pool in (self._decoders, self.timelines, self.readers):
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for model in self.models.values():
                stack.push_async_callback(model.close)

    def find(self, name: str | None) -> ServedModel:
        """A model by name, the default one for None. Raises `ServiceError` if there is none of that name."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            hint = did_you_mean(name[:80], self.models)
            raise ServiceError(404, f"model {name[:80]!r}: not served here.{hint} Known: {', '.join(self.models)}")
        return self.models[name]

    @contextmanager
    def take_stream(self) -> Iterator[None]:
        """Count a live stream within the block. Raises `ServiceError` while shutting down, or if there are too many."""
        self.places.check_open()
        if self.open_streams >= self.limits.streams:
            raise ServiceError(429, f"all {self.limits.streams} live streams are in use: try again later")
        self.open_streams += 1
        self.metrics.streams.set(self.open_streams)
        try:
            yield
        finally:
            self.open_streams -= 1
            self.metrics.streams.set(self.open_streams)

    async def decode(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function that reads videos, in one of the threads for it."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *args)

    async def run(self, model: ServedModel, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function that runs a model, in the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(model.executor, function, *args)

    async def answer(self, request: Request, work: Callable[[Upload], Awaitable[Result]]) -> tuple[Result, float]:
        """Receive the video of a request and work on it, in a place of the queue.

        Returns:
            The result, and the seconds since the request was accepted.

        Raises:
            ServiceError: as `Places.take` and `uploads.receive` do; 504 if the deadline is over.
            ClientDisconnect: the client is gone; the work was cancelled.
        """
        start = time.monotonic()
        with expected_errors(), self.places.take():
            async with uploads.receive(request, self.folder, self.limits, self.metrics.upload_bytes.inc) as upload:
                result = await finish(work(upload), request, self.limits.deadline_seconds)
        return result, time.monotonic() - start


async def finish(work: Awaitable[Result], request: Request, seconds: float) -> Result:
    """The result of some work, unless the client goes away or the time is over before: then it is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_for_disconnect(request))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientDisconnect
        raise ServiceError(504, f"no answer within {seconds:g} s: send a shorter video, or try again later")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def wait_for_disconnect(request: Request) -> None:
    """Until the client of a request, whose body has been read, closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
