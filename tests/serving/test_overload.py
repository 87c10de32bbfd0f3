"""More requests than can be answered: each gets an answer, or frees its place when its client goes away."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from helpers.serving import TIMEOUT, serve, wait_until
from xvit.serving import timelines


class BusyModel:
    """Keeps the model's thread of a server busy until it is released."""

    def __init__(self, running) -> None:
        self.running, self.model = running, running.service.find(None)
        self._release = threading.Event()

    def __enter__(self) -> "BusyModel":
        started = threading.Event()

        def work() -> None:
            started.set()
            self._release.wait(TIMEOUT)

        self.model.executor.submit(work)
        assert started.wait(TIMEOUT)
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        self._release.set()


def ask(running, video, route: str = "predict", **settings) -> httpx.Response:
    with running.client(**settings) as client:
        return client.post(f"/v1/{route}", files={"file": video.read_bytes()})


def test_a_full_queue(video):
    with serve(["motion"], queue=2) as running, ThreadPoolExecutor(2) as pool:
        with BusyModel(running) as busy:
            waiting = [pool.submit(ask, running, video) for _ in range(2)]
            wait_until(lambda: running.service.places.used == 2)
            before = running.metric("xvit_upload_bytes_total")
            for route in ("predict", "timeline", "explain"):
                response = ask(running, video, route)
                assert response.status_code == 429
                assert int(response.headers["Retry-After"]) >= 1
                assert "all 2 places of the queue are taken" in response.json()["error"]
            assert running.metric("xvit_upload_bytes_total") in (before, before + 2 * len(video.read_bytes()))
            assert running.metric("xvit_queue") == 2
            busy.release()
        assert [job.result().status_code for job in waiting] == [200, 200]
        assert ask(running, video).status_code == 200
        assert running.service.places.used == 0


@pytest.mark.parametrize("route", ["predict", "timeline", "explain"])
def test_the_deadline(video, route):
    with serve(["motion"], deadline_seconds=0.5) as running:
        with BusyModel(running):
            response = ask(running, video, route)
            assert response.status_code == 504
            assert "within 0.5 s" in response.json()["error"]
            assert running.service.places.used == 0
        assert running.uploads() == []


@pytest.mark.parametrize("route", ["predict", "timeline", "explain"])
def test_a_client_that_goes_away_frees_its_place(video, route):
    with serve(["motion"]) as running:
        with BusyModel(running):
            with contextlib.suppress(httpx.ReadTimeout):
                ask(running, video, route, timeout=httpx.Timeout(TIMEOUT, read=1.0))
            wait_until(lambda: running.service.places.used == 0)
            assert running.uploads() == []
        served = running.metric("xvit_batch_clips_count", model="motion")
        assert ask(running, video).status_code == 200
        assert running.metric("xvit_batch_clips_count", model="motion") == served + 1  # it was not computed


@pytest.mark.parametrize("route", ["predict", "timeline", "explain"])
def test_shutting_down_answers_what_was_accepted(video, route):
    with serve(["motion"]) as running, ThreadPoolExecutor(1) as pool, running.client() as kept:
        assert kept.get("/health/ready").status_code == 200
        with BusyModel(running) as busy:
            waiting = pool.submit(ask, running, video, route)
            wait_until(lambda: running.service.places.used == 1)
            running.service.places.draining = True  # as a signal does, before the server closes its connections
            for path in ("/health/ready", "/v2/health/ready", "/v2/models/motion/ready"):
                assert kept.get(path).status_code == 503
            assert kept.get("/health/live").status_code == 200
            refused = ask(running, video)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            assert "shutting down" in refused.json()["error"]
            running.server.stop()
            wait_until(lambda: not running.server.servers[0].is_serving())
            busy.release()
        assert waiting.result().status_code == 200
        running.thread.join(TIMEOUT)
        assert not running.thread.is_alive()


def test_a_client_that_reads_nothing_frees_its_place(long_video, monkeypatch):
    """The answer does not fit into the buffers of the connection."""
    summarize = timelines.summarize
    monkeypatch.setattr(timelines, "summarize", lambda *args: summarize(*args) | {"padding": "x" * 30_000_000})
    data = long_video.read_bytes()
    with serve(["motion"], deadline_seconds=2.0) as running, socket.create_connection(running.address) as connection:
        head = (
            f"POST /v1/timeline HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\nContent-Length: {len(data)}"
        )
        connection.sendall(f"{head}\r\n\r\n".encode() + data)
        wait_until(lambda: running.service.places.used == 1)
        wait_until(lambda: running.service.places.used == 0)
        assert running.uploads() == []


def test_memory_runs_out(server, video, monkeypatch):
    from xvit.serving import work

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(work, "read_views", fail)
    response = ask(server, video)
    assert response.status_code == 503
    assert "ran out of memory" in response.json()["error"]


def test_an_unexpected_error_keeps_its_details(server, video, monkeypatch, caplog):
    from xvit.serving import work

    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(work, "read_views", fail)
    response = ask(server, video)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
