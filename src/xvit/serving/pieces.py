"""A recording in pieces, as they arrive: what the event loop receives, a decoder's thread reads."""

import threading
import time
from collections import deque

MAX_WAITING = 8 * 2**20  # bytes, beyond which nothing more should be received


class PieceReader:
    """Bytes between two threads.

    Args:
        timeout: seconds that `read` waits for the next bytes.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout, self.waiting = timeout, 0
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._condition = threading.Condition()

    def write(self, piece: bytes) -> None:
        with self._condition:
            self._pieces.append(piece)
            self.waiting += len(piece)
            self._condition.notify()

    def end(self) -> None:
        """No more bytes will come."""
        with self._condition:
            self._ended = True
            self._condition.notify()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are some; none at the end. Raises `TimeoutError`."""
        deadline = time.monotonic() + self.timeout
        with self._condition:
            while not self._pieces and not self._ended:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"no data for {self.timeout:g} s")
                self._condition.wait(remaining)
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
            self.waiting -= min(len(piece), size)
            return piece[:size]
