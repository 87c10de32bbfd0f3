"""One function, many files, several processes."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.synchronize import Event
from threading import Thread
from typing import TypeVar

from xvit.utils.errors import XViTError, check_range

J = TypeVar("J")
R = TypeVar("R")

_stop: Event | None = None  # of a worker: its main process wants it to end


def run_all(
    function: Callable[[J], R],
    jobs: Sequence[J],
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[R]:
    """Call a function for each job.

    Args:
        function: of a module (or a partial of one), so that other processes find it. If it takes long, it should call
            `check_stop` now and then.
        jobs: what it is called with.
        workers: processes; 0 for this one.
        on_progress: called with (jobs done, jobs in all) after each.

    Returns:
        What it returned, in the order of the jobs.

    Raises:
        XViTError: a worker process that was killed.
    """
    check_range("num_workers", num_workers, 0)
    results: dict[int, R] = {}

    def done(place: int, result: R) -> None:
        results[place] = result
        if on_progress is not None:
            on_progress(len(results), len(jobs))

    if num_workers == 0 or not jobs:
        for place, job in enumerate(jobs):
            done(place, function(job))
        return [results[place] for place in range(len(jobs))]
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks that threads of this process hold
    stop = context.Event()
    upcoming = iter(enumerate(jobs))
    running: dict[Future[R], int] = {}
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        while len(results) < len(jobs):
            with _interrupts_held():  # workers are begun here
                for place, job in islice(upcoming, 4 * num_workers - len(running)):
                    running[pool.submit(function, job)] = place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done(running[future], future.result())
                del running[future]
    except BrokenProcessPool:
        places = sorted(set(running.values()) - set(results))
        raise XViTError(
            f"a worker process was killed, perhaps for want of memory, at one of {len(places)} files from number "
            f"{places[0] + 1}, {jobs[places[0]]}, on: take fewer workers; 0 runs in one process"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return [results[place] for place in range(len(jobs))]


def check_stop() -> None:
    """Raise `KeyboardInterrupt` in a worker whose main process is being stopped."""
    if _stop is not None and _stop.is_set():
        raise KeyboardInterrupt


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal, but is for the main one to act upon: workers inherit this."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A main process that was killed tells nobody: its workers would work on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
