"""Connections that bring no request: they are closed after a time, and there are never too many of them.

Without these limits, anybody could keep all file descriptors of the process with requests that never begin.
"""

import asyncio
import sys
from functools import cache

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 256  # connections that are accepted at a time
HEAD_SECONDS = 20.0  # from the connection, or the previous answer, to the end of a request's headers
_MIN_CONNECTIONS = 32


@cache
def max_connections() -> int:
    """Half of the file descriptors: the others are for those just accepted, uploads and videos."""
    if sys.platform == "win32":
        return 10_000
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 10_000 if soft == resource.RLIM_INFINITY else max(soft // 2, _MIN_CONNECTIONS)


class Connection(H11Protocol):
    """An HTTP connection of uvicorn, with these limits."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def _watch(self) -> None:
        """Let the time run while a request is expected, however much of it has come."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
