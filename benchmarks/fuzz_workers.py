"""Worker processes that survive what they read: a crash or a hang is an outcome, and the next input gets a new process.

Nothing heavy is imported here, so that a process starts at once.
"""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path

_LOG_CHARACTERS = 4000  # of the end of a worker's output that are kept


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answer to one input; `where` and `detail` describe a finding.

    Args:
        number, target, case: of the input; "?" if the process was lost.
        result: one of those that `fuzz.py` lists.
        seconds: wall time.
        memory: bytes that the process took beyond those that it held before.
    """

    number: int
    target: str = "?"
    case: str = "?"
    result: str
    where: str = ""
    detail: str = ""
    seconds: float = 0.0
    memory: int = 0


Run = Callable[..., Outcome]  # of the number of an input, and the folder for it


def campaign(
    numbers: Iterator[int], run: Run, folder: Path, *, jobs: int, deadline: float
) -> Iterator[tuple[Outcome, Path]]:
    """Run inputs in `jobs` processes. Yields the outcomes as they come, each with the folder of the input.

    Args:
        numbers: of the inputs.
        run: called with a number and `folder=`; it must be importable.
        folder: each worker gets a folder in it.
        deadline: seconds after which an input that is still being read counts as a hang.
    """
    active: list[_Worker] = []
    try:
        for index, number in zip(range(jobs), numbers, strict=False):
            active.append(_Worker(folder / str(index), run))
            active[-1].start(number, deadline)
        while active:
            wait([worker.connection for worker in active], timeout=0.5)
            for worker in list(active):
                if (outcome := worker.poll()) is None:
                    continue
                yield outcome, worker.folder / "input"
                active.remove(worker)
                following = next(numbers, None)
                if following is None:
                    worker.process.kill()
                    continue
                active.append(worker if worker.process.is_alive() else _Worker(worker.folder, run))
                active[-1].start(following, deadline)
    finally:
        for worker in active:
            worker.process.kill()


class _Worker:
    """A process, and the input that it is reading."""

    def __init__(self, folder: Path, run: Run) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.number, self.started, self.deadline = folder, -1, 0.0, 0.0
        self.ready = False  # the process has imported what it needs, which takes a while on a busy machine
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, folder, run), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, number: int, deadline: float) -> None:
        self.number, self.started, self.deadline = number, time.monotonic(), deadline
        with contextlib.suppress(BrokenPipeError):  # `poll` notices that the process has died
            self.connection.send(number)

    def poll(self) -> Outcome | None:
        """The outcome of the input, if there is one."""
        lost = partial(Outcome, number=self.number, seconds=time.monotonic() - self.started)
        try:
            if self.connection.poll():
                outcome: Outcome | None = self.connection.recv()
                if outcome is None:
                    self.ready, self.started = True, time.monotonic()
                return outcome
        except (EOFError, ConnectionResetError):
            self.process.join()
            return lost(result="crash", where=f"exit code {self.process.exitcode}", detail=self._read_log())
        if self.ready and time.monotonic() > self.started + self.deadline:
            self.process.kill()
            self.process.join()
            return lost(result="hang", where=f"{self.deadline:g} s", detail=self._read_log())
        return None

    def _read_log(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-_LOG_CHARACTERS:] if log.exists() else ""


def _work(connection: Connection, folder: Path, run: Run) -> None:
    """Answer the numbers of inputs with their outcomes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError):
        connection.send(None)
        while True:
            number = connection.recv()
            os.ftruncate(log, 0)
            connection.send(run(number, folder=folder / "input"))
