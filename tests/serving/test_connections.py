"""Connections that bring no request."""

import json
import socket
import time

import pytest
from websockets.sync.client import connect

from helpers.serving import TIMEOUT, serve, wait_until
from xvit.serving import connections

HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)


def opened(server) -> socket.socket:
    return socket.create_connection(server.address, timeout=TIMEOUT)


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, b"\r\n", HEAD + b"\r\n" + HEAD])
def test_a_request_that_never_comes(server, hurried, sent):
    with opened(server) as client:
        client.sendall(sent)
        received = b""
        while data := client.recv(2**16):  # until the server closes the connection
            received += data
    assert received.count(b"200 OK") == sent.count(b"\r\n\r\n")


def test_a_slow_request_is_no_such_connection(server, hurried, video, monkeypatch):
    from xvit.serving import work

    original = work.read_views

    def read_views(*args):
        time.sleep(1.0)  # longer than a request may take to begin
        return original(*args)

    monkeypatch.setattr(work, "read_views", read_views)
    with server.client() as client:
        assert client.post("/v1/predict", files={"file": video.read_bytes()}).status_code == 200


def test_an_idle_stream_is_no_such_connection(server, hurried):
    with connect(server.websocket_url, open_timeout=TIMEOUT, proxy=None) as stream:
        stream.send(json.dumps({"format": "images"}))
        assert "ready" in json.loads(stream.recv(TIMEOUT))
        with pytest.raises(TimeoutError):
            stream.recv(1.0)
        stream.send(json.dumps({"end": True}))
        assert json.loads(stream.recv(TIMEOUT)) == {"done": {"frames": 0}}


def test_there_are_never_too_many(monkeypatch):
    monkeypatch.setattr(connections, "max_connections", lambda: 3)
    with serve(["motion"]) as server:
        kept = [opened(server) for _ in range(3)]
        wait_until(lambda: len(server.server.server_state.connections) == 3)
        with opened(server) as refused:
            assert refused.recv(100) == b""  # closed
        for client in kept:
            client.close()
        wait_until(lambda: not server.server.server_state.connections)
        with server.client() as client:
            assert client.get("/health/live").status_code == 200
