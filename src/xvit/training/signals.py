"""Ctrl-C and SIGTERM, asked about between two steps instead of breaking one off."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from xvit.utils import distributed
from xvit.utils.errors import Interrupted

_logger = logging.getLogger("xvit")


class StopSignals:
    """While it is entered, the first SIGINT or SIGTERM is noted, for `check`; a second SIGINT breaks off at once
    (not in one of several processes: a terminal sends it to each, and what launched them hands it on).

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came in, here or in another process: each must call it."""
        received = distributed.all_reduce_max(self.received or 0)[0]
        if received:
            raise Interrupted(exit_code=128 + received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and distributed.world_size() == 1:
            raise KeyboardInterrupt
        if self.received is None:
            _logger.info("stopping after this step, with all that was trained saved (Ctrl-C again: at once)")
        self.received = number
