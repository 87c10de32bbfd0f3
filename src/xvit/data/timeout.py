"""Calling a function that reads a video with a time limit."""

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from xvit.utils.errors import VideoError

Result = TypeVar("Result")


class _ReaderThread:
    """A thread that reads one video after another. Reusing it avoids the memory that each new thread allocates."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.requests: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.results: SimpleQueue[Any] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                self.results.put(self.requests.get()())
            except BaseException as error:
                self.results.put(error)


_idle_threads: list[_ReaderThread] = []


def call_with_timeout(read: Callable[[], Result], path: str, timeout: float) -> Result:
    """Call `read`, but raise `VideoError` if it takes longer than `timeout` seconds; 0 for no limit.

    A call that hangs in a library or in a file system cannot be interrupted: its thread is abandoned and ends with the
    process.
    """
    if not timeout:
        return read()
    thread = _idle_threads.pop() if _idle_threads else _ReaderThread()
    if thread.pid != os.getpid():  # inherited through a fork, which does not copy threads
        thread = _ReaderThread()
    thread.requests.put(read)
    try:
        result: Result | BaseException = thread.results.get(timeout=timeout)
    except Empty:
        raise VideoError(path, f"not read within {timeout:g} s (data.decode_timeout)") from None
    _idle_threads.append(thread)
    if isinstance(result, BaseException):
        raise result
    return result
