"""Dynamic micro-batching: requests that wait at the same time share one call of the model.

    requests ──▶ waiting ──▶ batch: at most max_size, at most max_wait after its first ──▶ run, in the model's thread

While the model works, requests collect by themselves; an idle model waits for `max_wait` at most, and only if there are
others to wait for. Requests that were cancelled while they waited are left out.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs a function on batches of items that are submitted one by one. For one event loop.

    Args:
        run: called with the items of a batch; returns their results in order, each a value or an exception.
        executor: where it is called.
        size: of an item, such as its number of clips.
        max_size: of a batch, unless its first item is larger.
        max_wait: seconds that a batch waits for more items while nothing else is being run.
        on_batch: called with the size of each batch that was run, and the seconds it took.
        num_expected: how many items wait or may come soon; a batch does not wait for more than that.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | Exception]],
        executor: Executor,
        *,
        size: Callable[[Item], int],
        max_size: int,
        max_wait: float,
        on_batch: Callable[[int, float], None],
        num_expected: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.run, self.executor, self.size, self.on_batch = run, executor, size, on_batch
        self.max_size, self.max_wait, self.num_expected = max_size, max_wait, num_expected
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result of one item. Cancelling this takes the item out of the queue."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._changed.set()
        return await future

    async def close(self) -> None:
        """End the task that makes the batches. What has no result yet is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for _, future in self._waiting:
            future.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_batch(loop)
            batch = self._take()
            if not batch:
                continue
            start = loop.time()
            results: Sequence[tuple[Item, asyncio.Future[Result], Result | Exception]]
            try:
                results = await loop.run_in_executor(self.executor, self._run, batch)
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:
                results = [(item, future, error) for item, future in batch]
            if results:
                self.on_batch(sum(self.size(item) for item, _, _ in results), loop.time() - start)
            for _, future, result in results:
                if future.done():  # cancelled meanwhile
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _run(
        self, batch: Sequence[tuple[Item, "asyncio.Future[Result]"]]
    ) -> "list[tuple[Item, asyncio.Future[Result], Result | Exception]]":
        """Run what nobody has cancelled while the thread was at work for others."""
        left = [(item, future) for item, future in batch if not future.cancelled()]
        results = self.run([item for item, _ in left]) if left else []
        return [(item, future, result) for (item, future), result in zip(left, results, strict=True)]

    async def _wait_for_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until a batch is full, or its time is over."""
        end: float | None = None
        while self._num_waiting() < self.max_size:
            if self._waiting:
                if len(self._waiting) >= self.num_expected():
                    return
                end = end or loop.time() + self.max_wait
            self._changed.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _num_waiting(self) -> int:
        while self._waiting and self._waiting[0][1].cancelled():
            self._waiting.popleft()
        return sum(self.size(item) for item, future in self._waiting if not future.cancelled())

    def _take(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._waiting:
            item, future = self._waiting[0]
            if future.cancelled():
                self._waiting.popleft()
                continue
            total += self.size(item)
            if batch and total > self.max_size:
                break
            batch.append(self._waiting.popleft())
        return batch
