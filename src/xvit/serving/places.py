"""The one bounded queue of the service: a place for each request from its acceptance to its answer."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xvit.serving.errors import ServiceError

_SMOOTHING = 0.1  # weight of the latest request in the mean time of a place
_MAX_RETRY_AFTER = 60  # seconds


class Places:
    """Counts the requests that are accepted and not answered yet.

    Args:
        size: how many there may be.

    Attributes:
        used: how many there are.
        draining: no more are accepted, because the service is shutting down.
    """

    def __init__(self, size: int) -> None:
        self.size, self.used, self.draining = size, 0, False
        self._mean_seconds = 1.0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place within the block, however it ends.

        Raises:
            ServiceError: 503 while draining, 429 if there is no free place.
        """
        self.check_open()
        if self.used >= self.size:
            wait = min(max(math.ceil(self._mean_seconds), 1), _MAX_RETRY_AFTER)
            message = f"all {self.size} places of the queue are taken: try again in {wait} s"
            raise ServiceError(429, message, {"Retry-After": str(wait)})
        self.used += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self.used -= 1
            self._mean_seconds += _SMOOTHING * (time.monotonic() - start - self._mean_seconds)

    def check_open(self) -> None:
        """Raise `ServiceError` while draining."""
        if self.draining:
            raise ServiceError(503, "the service is shutting down: try again later", {"Retry-After": "10"})
