"""Iterating in a thread of its own, so that reading goes on while its results are worked on."""

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


def read_ahead(items: Iterable[Item], size: int) -> Generator[Item, None, None]:
    """Yield the items in order, while a thread gets the next ones: at most `size` wait, and one more is being read.

    What the iteration raises is raised here, after the items before it. Closing the generator ends the thread.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(maxsize=size)
    closed = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not closed.is_set():
            try:
                return queue.put((item, error), timeout=0.1)
            except Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
        except BaseException as error:
            put(_END, error)
        else:
            put(_END)

    thread = threading.Thread(target=read, name="xvit-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        while True:  # frees the memory, and a thread that waits
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()
