"""Ctrl-C and SIGTERM, handled between two steps instead of inside one."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

from xvit.utils import distributed
from xvit.utils.errors import Interrupted

_logger = logging.getLogger("xvit")


class StopSignals:
    """A context manager that records the first SIGINT or SIGTERM, for `check`. A second SIGINT stops at once.

    With several processes a second SIGINT does not stop at once: a terminal sends each Ctrl-C to all processes, and the
    launcher sends it to them again. Outside the main thread, where Python handles no signals, it does nothing. A SIGINT
    that the process ignores, as one that a script starts in the background does, is still ignored.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            for number in (signal.SIGTERM,) if is_ignored else (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if this or another process received a signal. All processes must call it."""
        if received := max(distributed.all_gather(self.received)):
            raise Interrupted(exit_code=128 + received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT and distributed.world_size() == 1:
            raise KeyboardInterrupt
        if not self.received:
            _logger.warning("stopping after this step and saving the state (press Ctrl-C again to stop at once)")
        self.received = number
