"""A service under a real server, in a thread of the test's process."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from xvit.serving.app import create_app
from xvit.serving.models import load_models
from xvit.serving.server import Server, listen, make_server
from xvit.serving.service import Service
from xvit.serving.settings import Access, Limits

TIMEOUT = 300.0  # seconds; tests run on busy machines


@dataclass(frozen=True)
class RunningServer:
    """A server that listens on 127.0.0.1.

    Args:
        address: host and port.
        thread: in which it runs.
    """

    app: FastAPI
    server: Server
    address: tuple[str, int]
    thread: threading.Thread

    @property
    def service(self) -> Service:
        return self.app.state.service

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    @property
    def websocket_url(self) -> str:
        return "ws://{}:{}/v1/stream".format(*self.address)

    def client(self, **settings) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, **{"timeout": TIMEOUT, **settings})

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 if it was never counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def uploads(self) -> list[Path]:
        """The folders of uploads that are there."""
        return [path for path in self.service.folder.iterdir() if path.is_dir()]


@contextmanager
def serve(
    models: Sequence[str | Path], *, access: Access | None = None, trust_code: bool = False, **limits
) -> Iterator[RunningServer]:
    """Serve models; arguments are those of `load_models` and of `Limits`."""
    chosen = Limits(**limits)
    app = create_app(
        load_models(list(map(str, models)), chosen, device="cpu", trust_code=trust_code), limits=chosen, access=access
    )
    with listen("127.0.0.1", 0) as listener:
        ready = threading.Event()
        server = make_server(app, on_ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not ready.wait(0.1):
                assert thread.is_alive()
            yield RunningServer(app, server, listener.getsockname()[:2], thread)
        finally:
            server.stop()
            thread.join(TIMEOUT)
    with suppress(AttributeError):
        assert not app.state.service.folder.exists()


def wait_until(condition, seconds: float = TIMEOUT) -> None:
    """Return once a condition holds, which it does soon."""
    event, waited = threading.Event(), 0.0
    while not condition():
        assert waited < seconds
        event.wait(0.02)
        waited += 0.02


def encode_picture(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    """A frame (H, W, 3) as a JPEG or WEBP picture."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, quality=90)
    return buffer.getvalue()


def decode_picture(data: bytes) -> np.ndarray:
    """The pixels (H, W, 3) of a picture."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
