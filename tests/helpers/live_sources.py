"""Sources of frames for the tests: an HTTP server, a piped standard input, and a collector that cannot hang."""

import contextlib
import http.server
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from helpers.barcode_videos import read_number
from xvit.data.capture.source import Frame, Source, SourceEvent
from xvit.utils.errors import XViTError

TIME_LIMIT = 600  # seconds after which a test counts as hanging

Response = Callable[[http.server.BaseHTTPRequestHandler], object]


def event_kinds(events: list[SourceEvent]) -> list[str]:
    """The kinds of the events, in order."""
    return [event.kind for event in events]


def frame_numbers(frames: list[Frame]) -> list[int]:
    """The barcode number in each frame."""
    return [read_number(frame.pixels) for frame in frames]


def collect(source: Source, **options) -> tuple[list[Frame], list[SourceEvent]]:
    """Read a source to its end, in a thread, so that one that hangs fails the test; check its counts."""
    frames, events, errors = [], [], []

    def run():
        try:
            for item in source.frames(**options):
                (frames if isinstance(item, Frame) else events).append(item)
        except XViTError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIME_LIMIT)
    assert not thread.is_alive(), "the source hangs"
    if errors:
        raise errors[0]
    counts = source.counts
    given_out = counts.delivered + counts.skipped + counts.dropped + counts.undelivered
    assert counts.read + counts.repeated == given_out
    assert counts.delivered == len(frames)
    for kind in ("dropped", "damaged"):
        assert sum(event.count for event in events if event.kind == kind) == getattr(counts, kind)
    return frames, events


@contextlib.contextmanager
def http_server(*responses: Response) -> Iterator[str]:
    """Yield the address of an HTTP server that gives one response per request, and repeats the last one."""
    requests = itertools.count()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the client has disconnected
                responses[min(next(requests), len(responses) - 1)](self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def send(
    data: bytes, *, with_length: bool = True, length: int | None = None, then: Callable[[], object] = lambda: None
) -> Response:
    """A response that sends `data`, with its length or another one in the header, and then calls `then`."""

    def respond(handler):
        handler.send_response(200)
        if with_length:
            handler.send_header("Content-Length", str(length or len(data)))
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()
        then()

    return respond


@contextlib.contextmanager
def standard_input(
    monkeypatch: pytest.MonkeyPatch, *parts: bytes, pause: float = 0.0, close: bool = True
) -> Iterator[None]:
    """Send `parts` through the standard input, with a pause in seconds after each, then close it or leave it open."""
    read_end, write_end = os.pipe()

    def write():
        with contextlib.suppress(BrokenPipeError):
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(write_end, view) :]
                time.sleep(pause)
        if close:
            os.close(write_end)

    with os.fdopen(read_end, "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        yield
    thread.join(TIME_LIMIT)
    if not close:
        os.close(write_end)
