"""Micro-batching by itself."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from xvit.serving.batcher import Batcher


class Recorder:
    """Squares numbers, and records the batches. The first batch waits until it is released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.started.set()
        self.release.wait(60)
        if 13 in items:
            raise RuntimeError("13 breaks the batch")
        return [ValueError(f"{item} is negative") if item < 0 else item * item for item in items]


def run(scenario, *, size=lambda item: 1, max_size: int = 4, **settings) -> Recorder:
    """Run `scenario(batcher, recorder)` in an event loop."""
    recorder = Recorder()

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            sizes: list[int] = []

            def count(size: int, seconds: float) -> None:
                assert seconds >= 0
                sizes.append(size)

            options = {"max_wait": 0.0, **settings}
            batcher = Batcher(recorder, pool, size=size, max_size=max_size, on_batch=count, **options)
            try:
                await scenario(batcher, recorder)
            finally:
                recorder.release.set()
                await batcher.close()
            assert sizes == [sum(map(size, batch)) for batch in recorder.batches][: len(sizes)]

    asyncio.run(main())
    return recorder


async def start_one(batcher, recorder) -> asyncio.Task:
    """A first item, whose batch keeps the thread busy."""
    task = asyncio.create_task(batcher.submit(1))
    while not recorder.started.is_set():
        await asyncio.sleep(0.01)
    return task


async def submit(batcher, items) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_together_is_run_together():
    async def scenario(batcher, recorder):
        first = await start_one(batcher, recorder)
        tasks = await submit(batcher, range(2, 8))
        recorder.release.set()
        assert await asyncio.gather(first, *tasks) == [n * n for n in range(1, 8)]

    assert run(scenario).batches == [[1], [2, 3, 4, 5], [6, 7]]


def test_an_idle_model_waits_for_a_full_batch_or_the_longest_wait():
    async def full(batcher, recorder):
        recorder.release.set()
        await asyncio.gather(*await submit(batcher, range(4)))

    assert run(full, max_wait=600).batches == [[0, 1, 2, 3]]

    async def alone(batcher, recorder):
        recorder.release.set()
        assert await batcher.submit(3) == 9

    assert run(alone, max_wait=0.05).batches == [[3]]


def test_a_batch_does_not_wait_if_no_others_are_there():
    async def scenario(batcher, recorder):
        recorder.release.set()
        await asyncio.gather(*await submit(batcher, [1, 2]))

    assert run(scenario, max_wait=600, num_expected=lambda: 2).batches == [[1, 2]]


def test_sizes_of_items_count():
    async def scenario(batcher, recorder):
        first = await start_one(batcher, recorder)
        tasks = await submit(batcher, [2, 2, 3, 9, 1])
        recorder.release.set()
        await asyncio.gather(first, *tasks)

    assert run(scenario, size=lambda item: item).batches == [[1], [2, 2], [3], [9], [1]]


def test_cancelled_items_are_left_out():
    async def scenario(batcher, recorder):
        first = await start_one(batcher, recorder)
        tasks = await submit(batcher, range(2, 8))
        for task in (tasks[0], tasks[3], tasks[5]):
            task.cancel()
        recorder.release.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [result for result in results if isinstance(result, int)] == [1, 9, 16, 36]

    assert run(scenario).batches == [[1], [3, 4, 6]]


def test_an_item_that_is_cancelled_while_it_runs_does_not_disturb_the_others():
    async def scenario(batcher, recorder):
        first = await start_one(batcher, recorder)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        [task] = await submit(batcher, [2])
        recorder.release.set()
        assert await task == 4

    assert run(scenario).batches == [[1], [2]]


def test_errors_of_an_item_and_of_a_batch():
    async def scenario(batcher, recorder):
        first = await start_one(batcher, recorder)
        tasks = await submit(batcher, [-2, 3])
        recorder.release.set()
        await first
        with pytest.raises(ValueError, match="-2 is negative"):
            await tasks[0]
        assert await tasks[1] == 9
        for result in await asyncio.gather(*await submit(batcher, [13, 14]), return_exceptions=True):
            assert str(result) == "13 breaks the batch"
        assert await batcher.submit(5) == 25

    run(scenario)


def test_closing_cancels_what_waits():
    async def scenario(batcher, recorder):
        running = await start_one(batcher, recorder)
        [waiting] = await submit(batcher, [2])
        await batcher.close()
        for result in await asyncio.gather(running, waiting, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)

    run(scenario)
