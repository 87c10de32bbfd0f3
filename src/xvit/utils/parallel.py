"""Calling one function for many files in several processes."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TypeVar

from xvit.utils.errors import XViTError, check_range
from xvit.utils.workers import Killed, WorkerPool, stop_requested

Job = TypeVar("Job")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None = None,
    on_killed: Callable[[Job, str], Result] | None = None,
    start_method: str | None = "spawn",
) -> list[Result]:
    """Call a function for each job, in worker processes.

    A job whose process is killed is tried once more after all others, in a separate process.

    Args:
        function: of a module, or a partial of one; it should call `check_stop` from time to time if it takes long.
        jobs: the arguments of the calls.
        num_workers: number of worker processes; 0 calls the function in this process.
        on_progress: called with (jobs done, number of jobs) after each job.
        on_killed: called with a job whose process was killed twice, and with "was killed (signal 9)"; returns its
            result.
        start_method: of `multiprocessing`. "spawn" needs seconds for a process, a "fork" copies the locks that threads
            of this process hold; None for the system's own. Only workers that are spawned can tidy up when they are
            stopped: see `check_stop`.

    Returns:
        The results, in the order of the jobs.

    Raises:
        XViTError: the process of a job was killed twice, and there is no `on_killed`.
    """
    results: dict[int, Result] = {}
    with closing(_iter_parallel(function, jobs, num_workers, on_killed, start_method)) as finished:
        for index, result in finished:
            results[index] = result
            if on_progress is not None:
                on_progress(len(results), len(jobs))
    return [results[index] for index in range(len(jobs))]


def parallel_imap(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int,
    on_killed: Callable[[Job, str], Result] | None = None,
    start_method: str | None = "spawn",
) -> Generator[Result, None, None]:
    """As `parallel_map`, but yields each result, in the order of the jobs, as soon as it and those before are there."""
    finished: dict[int, Result] = {}
    position = 0
    with closing(_iter_parallel(function, jobs, num_workers, on_killed, start_method)) as results:
        for index, result in results:
            finished[index] = result
            while position in finished:
                yield finished.pop(position)
                position += 1


def check_stop() -> None:
    """Raise `KeyboardInterrupt` in a worker whose main process is being stopped."""
    if stop_requested():
        raise KeyboardInterrupt


def _iter_parallel(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_workers: int,
    on_killed: Callable[[Job, str], Result] | None,
    start_method: str | None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield the index and the result of each job as soon as it is done."""
    check_range("num_workers", num_workers, 0)
    with closing(_iter_results(function, jobs, num_workers, start_method)) as finished:
        for index, result in finished:
            if not isinstance(result, Killed):
                yield index, result
            elif on_killed is not None:
                yield index, on_killed(jobs[index], result.how)
            else:
                raise XViTError(
                    f"job {index + 1} of {len(jobs)} ({jobs[index]}): its process {result.how} twice, perhaps "
                    "because memory ran out; use fewer workers (0 runs in one process)"
                )


def _iter_results(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int, start_method: str | None
) -> Generator[tuple[int, Result | Killed], None, None]:
    """Yield the index and the result of each job as soon as it is done; `Killed` if it was killed twice."""
    if num_workers == 0:
        yield from enumerate(map(function, jobs))
        return
    # Forks do not see that a pipe is closed, because they hold its other end, too.
    stop = BaseProcess.terminate if start_method == "spawn" else BaseProcess.kill
    open_pool = partial(WorkerPool[Job, Result], function, start_method=start_method, stop=stop)
    killed = []
    with closing(open_pool(num_workers)) as pool:
        for index, result in pool.imap(jobs, window=len(jobs)):
            if isinstance(result, Killed):
                killed.append(index)
            else:
                yield index, result
    with closing(open_pool(1)) as pool:
        for position, result in pool.imap([jobs[index] for index in killed], window=1):
            yield killed[position], result
