"""Worker processes that call one function for many jobs. If one of them is killed, it is known at which job.

Each worker has a pipe of its own, which ends when the worker does. There are no locks, threads or shared memory that a
killed process could leave in disorder.
"""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize, get_temp_dir
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any, Generic, TypeVar

from xvit.utils.errors import VideoError, XViTError, one_line

Job = TypeVar("Job")
Result = TypeVar("Result")

_EXIT_SECONDS = 10.0  # to wait for the exit of a process whose pipe has ended
_MAIN_GUARD = 'a script that uses workers must start below if __name__ == "__main__"'


@dataclass(frozen=True)
class Killed:
    """The result of a job whose process ended before the result arrived.

    Args:
        how: "was killed (signal 11)".
    """

    how: str


def killed_error(path: str | Path, how: str) -> VideoError:
    """The error of a video whose process ended while it read the video; `how` as in `Killed`."""
    return VideoError(path, f"the process that read it {how}")


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"
    jobs: deque[tuple[int, Any]] = field(default_factory=deque)  # given and not done yet, in order
    is_ready: bool = False  # it has started, and works on its jobs


class WorkerPool(Generic[Job, Result]):
    """Worker processes, started when they are needed and kept until the pool is closed or deleted.

    Args:
        function: called for each job; if processes are spawned, of a module, or a partial of one.
        initializer: called first in each worker.
        start_method: of `multiprocessing`: "spawn", "fork" or "forkserver"; None for the system's own.
        prefetch: number of jobs that each worker is given at a time.
        stop: ends a worker: `BaseProcess.kill`, or `BaseProcess.terminate` for workers that tidy up first.
        share_memory: pass tensors among the results through shared memory; through the pipe if False.
    """

    def __init__(
        self,
        function: Callable[[Job], Result],
        num_workers: int,
        *,
        initializer: Callable[[], object] | None = None,
        start_method: str | None = None,
        prefetch: int = 1,
        stop: Callable[[BaseProcess], None] = BaseProcess.kill,
        share_memory: bool = True,
    ) -> None:
        self.function, self.num_workers, self.initializer, self.prefetch = function, num_workers, initializer, prefetch
        self._context: Any = multiprocessing.get_context(start_method)
        self._workers: list[_Worker] = []
        self._stop, self._share_memory = stop, share_memory
        # Its priority lets it run before multiprocessing waits for all processes, when this one exits.
        Finalize(self, _stop_workers, (self._workers, stop), exitpriority=10)

    def imap(self, jobs: Sequence[Job], *, window: int) -> Generator[tuple[int, Result | Killed], None, None]:
        """Yield the index and the result of each job as soon as it is done.

        Args:
            window: job i is not begun before job i - window and all jobs before it are done.

        Raises:
            Exception: the one that a job raised.
            XViTError: a worker ended before its first job.
        """
        waiting, finished = deque(enumerate(jobs)), set[int]()
        results: deque[tuple[int, Result | Killed]] = deque()
        first = 0  # the first job that is not done
        try:
            while first < len(jobs) or results:
                self._give(waiting, first + window)
                if results:
                    yield results.popleft()
                    continue
                busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.jobs}
                for connection in wait(list(busy)):
                    if (received := self._receive(busy[connection], waiting)) is not None:
                        results.append(received)
                        finished.add(received[0])
                while first in finished:
                    finished.remove(first)
                    first += 1
        finally:
            if any(worker.jobs for worker in self._workers):  # their results must not be taken for those of other jobs
                self.close()

    def close(self) -> None:
        """End all workers. New jobs start new ones."""
        _stop_workers(self._workers, self._stop)

    def _give(self, waiting: deque[tuple[int, Job]], end: int) -> None:
        """Give the waiting jobs before `end` to the workers with the fewest jobs."""
        while waiting and waiting[0][0] < end:
            worker = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
            if worker is None or (worker.jobs and len(self._workers) < self.num_workers):
                worker = self._start_worker()
            if len(worker.jobs) >= self.prefetch:
                return
            worker.jobs.append(waiting.popleft())
            with suppress(OSError):  # it was killed, which `_receive` will notice
                worker.connection.send(worker.jobs[-1][1])

    def _start_worker(self) -> _Worker:
        if self._share_memory:
            get_temp_dir()  # the workers inherit it; one of its own, for torch's sockets, would outlive a worker
        ours, theirs = multiprocessing.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self.function, self.initializer, self._share_memory)
        )
        with _blocked_interrupts():  # until the worker is known, so that an interrupt ends it too
            process.start()
            self._workers.append(_Worker(process, ours))
            theirs.close()  # so that the pipe ends when the process does
        return self._workers[-1]

    def _receive(self, worker: _Worker, waiting: deque[tuple[int, Job]]) -> tuple[int, Result | Killed] | None:
        """The index and result of the job that a worker has done; None if it is ready for its first one.

        If it was killed, its other jobs wait again.
        """
        try:
            result, error = worker.connection.recv()
        except Exception:
            worker.process.join(_EXIT_SECONDS)
            if worker.process.exitcode is None:
                raise
            self._workers.remove(worker)
            worker.connection.close()
            if not worker.is_ready:
                how = _describe_exit(worker.process.exitcode)
                raise XViTError(f"a worker process {how} before its first job; {_MAIN_GUARD}") from None
            index, _ = worker.jobs.popleft()
            waiting.extendleft(reversed(worker.jobs))
            return index, Killed(_describe_exit(worker.process.exitcode))
        if not worker.is_ready:
            worker.is_ready = True
            return None
        if error is not None:
            raise error
        return worker.jobs.popleft()[0], result


def stop_requested() -> bool:
    """Whether this process is a worker whose pool is being closed."""
    return _stopping


def _describe_exit(exit_code: int) -> str:
    return f"was killed (signal {-exit_code})" if exit_code < 0 else f"ended (exit code {exit_code})"


def _stop_workers(workers: list[_Worker], stop: Callable[[BaseProcess], None]) -> None:
    for worker in workers:
        stop(worker.process)
        worker.connection.close()
    for worker in workers:
        worker.process.join()
    workers.clear()


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Block SIGINT for processes started inside, which inherit the mask: only the main process reacts to it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_stopping = False


def _work(
    connection: "Connection[Any, Any]",
    function: Callable[[Any], Any],
    initializer: Callable[[], object] | None,
    share_memory: bool,
) -> None:
    """Do the jobs that come through the pipe, in a worker process, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes
    signal.signal(signal.SIGTERM, _request_stop)
    Thread(target=_exit_with_parent, daemon=True).start()
    if initializer is not None:
        initializer()
    dumps = ForkingPickler.dumps if share_memory else pickle.dumps  # torch makes the first one share tensors
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the main process has closed the pipe, or wants to
        connection.send((None, None))  # ready
        while True:
            connection.send_bytes(_call(function, connection.recv(), dumps))


def _call(function: Callable[[Any], Any], job: Any, dumps: Callable[[Any], bytes | memoryview]) -> bytes | memoryview:
    """The pickled pair of the result of a job and None, or of None and the exception it raised."""
    try:
        return dumps((function(job), None))
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            data = dumps((None, error))
            pickle.loads(data)
        except Exception:
            data = dumps((None, RuntimeError(one_line(error, name=True))))
        return data


def _request_stop(number: int, frame: FrameType | None) -> None:
    global _stopping
    _stopping = True


def _exit_with_parent() -> None:
    """End this worker when its main process ends. A main process that was killed cannot stop its workers itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
