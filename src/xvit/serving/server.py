"""The service under uvicorn, until SIGINT or SIGTERM: then it answers what it has accepted, and ends."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from xvit.serving.connections import BACKLOG, Connection
from xvit.serving.places import Places
from xvit.utils.errors import Interrupted, XViTError, one_line

_EXTRA_SECONDS = 5.0  # to send the answers, when shutting down
_MESSAGE_MARGIN = 2**20  # bytes: larger messages of a WebSocket are not even received


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; raises `XViTError` if it is in use or none of this machine."""
    try:
        # With the number of the protocol, which asyncio looks for before it turns off Nagle's algorithm: with it, each
        # answer would wait 40 ms for the client's acknowledgement of the headers.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise XViTError(f"--host {host} --port {port}: {reason}; choose another address or port") from None


def run_server(app: FastAPI, listener: socket.socket, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM. Outside the main thread, which alone gets signals, until the process ends.

    Args:
        app: from `create_app`.
        listener: from `listen`; it is closed at the end.
        on_ready: called once requests are accepted.

    Raises:
        Interrupted: the signal, after all accepted requests were answered.
    """
    server = make_server(app, on_ready=on_ready)
    server.run(sockets=[listener])
    if server.signal_received:
        raise Interrupted("stopped: all accepted requests were answered", exit_code=128 + server.signal_received)


def make_server(app: FastAPI, *, on_ready: Callable[[], None] = lambda: None) -> "Server":
    """A uvicorn server with the limits of the application's service."""
    limits = app.state.service.limits
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # nor each form that is broken
    config = uvicorn.Config(
        app,
        http=Connection,
        backlog=BACKLOG,
        ws="websockets-sansio",
        ws_max_size=limits.message_bytes + _MESSAGE_MARGIN,
        ws_per_message_deflate=False,  # pictures and recordings are compressed already
        lifespan="on",
        log_config=None,
        log_level=logging.ERROR,  # not each request that is none
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks makes no difference
        timeout_graceful_shutdown=int(limits.upload_seconds + limits.deadline_seconds + _EXTRA_SECONDS),
    )
    return Server(config, app.state.service.places, on_ready)


class Server(uvicorn.Server):
    """Tells its service at once when a signal came, and its caller afterwards."""

    def __init__(self, config: uvicorn.Config, places: Places, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.places, self.on_ready, self.signal_received = places, on_ready, 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()

    def stop(self) -> None:
        """Shut down: accept nothing more, and answer what was accepted."""
        self.places.draining = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals; unlike uvicorn, do not raise them again at the end: the command has its own exit code."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as scripts start processes in the background
            numbers.append(signal.SIGINT)
        previous = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal shuts down; Ctrl-C after it ends at once."""
        if self.signal_received and sig == signal.SIGINT:
            self.force_exit = True
        self.signal_received = self.signal_received or sig
        self.stop()
