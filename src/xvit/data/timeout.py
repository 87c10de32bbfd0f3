"""Reading a video with a time limit."""

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from xvit.data.decode import Clip
from xvit.utils.errors import VideoError


class _ReaderThread:
    """A thread that reads one video after another. Reusing it avoids the memory that each new thread allocates."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.requests: SimpleQueue[Callable[[], Clip]] = SimpleQueue()
        self.results: SimpleQueue[Clip | BaseException] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                self.results.put(self.requests.get()())
            except BaseException as error:
                self.results.put(error)


_idle_threads: list[_ReaderThread] = []


def read_with_timeout(read: Callable[[], Clip], path: str, timeout: float) -> Clip:
    """Call `read`, but raise `VideoError` if it takes longer than `timeout` seconds.

    A call that hangs in a library or in a file system cannot be interrupted: its thread is abandoned and ends with the
    process.
    """
    thread = _idle_threads.pop() if _idle_threads else _ReaderThread()
    if thread.pid != os.getpid():  # inherited through a fork, which does not copy threads
        thread = _ReaderThread()
    thread.requests.put(read)
    try:
        result = thread.results.get(timeout=timeout)
    except Empty:
        raise VideoError(path, f"not read within {timeout:g} s (data.decode_timeout)") from None
    _idle_threads.append(thread)
    if isinstance(result, BaseException):
        raise result
    return result
