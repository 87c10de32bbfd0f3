"""Calling one function for many files in several processes."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing.synchronize import Event
from threading import Thread
from typing import TypeVar

from xvit.utils.errors import XViTError, check_range

Job = TypeVar("Job")
Result = TypeVar("Result")

_stop: Event | None = None  # in a worker: set when its main process stops


def parallel_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Call a function for each job, in worker processes.

    Args:
        function: of a module, or a partial of one; it should call `check_stop` from time to time if it takes long.
        jobs: the arguments of the calls.
        num_workers: number of worker processes; 0 calls the function in this process.
        on_progress: called with (jobs done, number of jobs) after each job.

    Returns:
        The results, in the order of the jobs.

    Raises:
        XViTError: a worker process was killed.
    """
    check_range("num_workers", num_workers, 0)
    results: dict[int, Result] = {}
    with closing(_iter_results(function, jobs, num_workers)) as finished:
        for index, result in finished:
            results[index] = result
            if on_progress is not None:
                on_progress(len(results), len(jobs))
    return [results[index] for index in range(len(jobs))]


def check_stop() -> None:
    """Raise `KeyboardInterrupt` in a worker whose main process is being stopped."""
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt


def _iter_results(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield the index and the result of each job as soon as it is done."""
    if num_workers == 0 or not jobs:
        for index, job in enumerate(jobs):
            yield index, function(job)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of this process hold
    stop, num_workers = context.Event(), min(num_workers, len(jobs))
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_init_worker, initargs=(stop,))
    pending = iter(enumerate(jobs))
    running: dict[Future[Result], int] = {}
    num_left = len(jobs)
    try:
        while num_left:
            with _blocked_interrupts():  # workers are started here
                for index, job in islice(pending, 4 * num_workers - len(running)):
                    running[pool.submit(function, job)] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running[future], future.result()
                del running[future]
                num_left -= 1
    except BrokenProcessPool:
        indices = sorted(running.values())
        raise XViTError(
            f"a worker process was killed, perhaps because memory ran out, while {len(indices)} jobs were running or "
            f"waiting, from number {indices[0] + 1} ({jobs[indices[0]]}) on; use fewer workers (0 runs in one process)"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Block SIGINT for worker processes started inside, which inherit the mask: only the main process reacts to it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this worker when its main process ends. A main process that was killed cannot stop its workers itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
