"""Calling a function that reads a video with a time limit.

The limit is tested by `check_deadline`, in all loops over packets. A call that hangs elsewhere, in a library or a file
system, cannot be interrupted: it is given up, and its thread is used again when it comes back.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from xvit.utils.errors import VideoError

Result = TypeVar("Result")

_GRACE = 1.0  # seconds for the call to notice that its time is over


class _TimedOut(BaseException):
    """No Exception: readers of videos take those for damage of the video, and go on."""


class _Deadline:
    """The end of a call, by time.monotonic()."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds or math.inf
        self.restart()

    def restart(self) -> None:
        self.end = time.monotonic() + self.seconds


_current = threading.local()  # .deadline: that of the call which this thread makes


def check_deadline() -> None:
    """End the call that this thread makes if its time is over."""
    deadline: _Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None and time.monotonic() > deadline.end:
        raise _TimedOut


def restart_deadline() -> None:
    """Give the call that this thread makes its whole time again, after each part of a long video."""
    deadline: _Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.restart()


@contextmanager
def time_limit(path: str | Path, seconds: float, reason: str) -> Iterator[None]:
    """Raise a `VideoError` for this reason at the first `check_deadline` after `seconds`; 0 for no limit."""
    with _deadline(_Deadline(seconds)):
        try:
            yield
        except _TimedOut:
            raise VideoError(path, reason) from None


@contextmanager
def _deadline(deadline: _Deadline) -> Iterator[None]:
    _current.deadline = deadline
    try:
        yield
    finally:
        _current.deadline = None


_Call = tuple[Callable[[], Any], _Deadline, "SimpleQueue[Any]"]


class _ReaderThread:
    """A thread that reads one video after another. Reusing it avoids the memory that each new thread allocates."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.calls: SimpleQueue[_Call] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._call(*self.calls.get())

    def _call(self, read: Callable[[], Any], deadline: _Deadline, results: "SimpleQueue[Any]") -> None:
        """Give the result, or the exception, to whoever waits for it; the queue of a call given up is gone."""
        try:
            with _deadline(deadline):
                result = read()
        except BaseException as error:
            result = error
        _idle_threads.append(self)
        results.put(result)


_idle_threads: list[_ReaderThread] = []


def call_with_timeout(read: Callable[[], Result], path: str, timeout: float, *, reason: str = "") -> Result:
    """Call `read`, but raise `VideoError` if it takes longer than `timeout` seconds; 0 for no limit.

    Args:
        reason: of that error; by default, the setting for reading videos.
    """
    if not timeout:
        return read()
    thread = _idle_threads.pop() if _idle_threads else _ReaderThread()
    if thread.pid != os.getpid():  # inherited through a fork, which does not copy threads
        thread = _ReaderThread()
    deadline, results = _Deadline(timeout), SimpleQueue[Any]()
    thread.calls.put((read, deadline, results))
    result: Result | BaseException = _TimedOut()
    while (left := deadline.end + _GRACE - time.monotonic()) > 0:  # the call may have restarted it meanwhile
        try:
            result = results.get(timeout=left)
            break
        except Empty:
            continue
    if isinstance(result, _TimedOut):
        raise VideoError(path, reason or f"not read within {timeout:g} s (data.decode_timeout)")
    if isinstance(result, BaseException):
        raise result
    return result
