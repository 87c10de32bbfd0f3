"""Uploads: limits that hold while the body arrives, types, broken forms, and no file that stays."""

import contextlib
import socket

import pytest

from helpers.serving import TIMEOUT, serve, wait_until

LIMIT = 200_000


@pytest.fixture(scope="module")
def small():
    """A server with a small limit for uploads, of which it waits a second at most."""
    with serve(["motion"], upload_bytes=LIMIT, upload_seconds=1.0) as running:
        yield running


def received(running) -> float:
    return running.metric("xvit_upload_bytes_total")


def raw_request(running, head: str, body: bytes = b"") -> socket.socket:
    """A connection that has sent the head of a request and some of its body."""
    connection = socket.create_connection(running.address, timeout=TIMEOUT)
    host = "{}:{}".format(*running.address)
    connection.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\n{head}\r\n\r\n".encode() + body)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it does not read the rest of a body that it has refused
        while piece := connection.recv(65536):
            data += piece
    return data


def test_an_announced_size_is_refused_before_the_body(small):
    before = received(small)
    head = f"Content-Type: video/mp4\r\nContent-Length: {LIMIT + 1}\r\nExpect: 100-continue"
    with raw_request(small, head) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")  # without 100 Continue
    assert b'"error":"the body is larger than 0.190735 MB: send a smaller or shorter video"' in answer
    assert received(small) == before


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("form", [True, False])
def test_a_large_body_is_refused_while_it_arrives(small, announced, form):
    """Whatever is sent: with a length that is a lie (it is checked by the server's parser), or in chunks."""
    before = received(small)
    kind = "multipart/form-data; boundary=b" if form else "video/mp4"
    start = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' if form else b""
    with small.client() as client:

        def body():
            yield start
            for _ in range(2000):
                yield bytes(65536)

        headers = {"Content-Type": kind} | ({"Content-Length": str(2000 * 65536 + len(start))} if announced else {})
        response = client.post("/v1/predict", content=body(), headers=headers)
    assert response.status_code == 413
    assert received(small) - before <= LIMIT + 2**20
    wait_until(lambda: small.uploads() == [])


def test_a_slow_upload_ends_in_time(small):
    with raw_request(small, "Content-Type: video/mp4\r\nContent-Length: 1000", b"\0") as connection:
        wait_until(lambda: small.service.places.used == 1)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 1 s: send it faster" in answer
    wait_until(lambda: small.service.places.used == 0)
    assert small.uploads() == []


@pytest.mark.parametrize("chunked", [True, False])
def test_an_aborted_upload_leaves_nothing(server, chunked):
    head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000"
    body = b"3e8\r\n" + bytes(1000) + b"\r\n" if chunked else bytes(1000)
    with raw_request(server, f"Content-Type: video/mp4\r\n{head}", body):
        wait_until(lambda: len(server.uploads()) == 1)
    wait_until(lambda: server.uploads() == [] and server.service.places.used == 0)


@pytest.mark.parametrize(
    "kind", ["", "image/jpeg", "application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8"]
)
def test_other_types(server, kind):
    with server.client() as client:
        response = client.post("/v1/predict", content=b"x", headers={"Content-Type": kind})
        assert response.status_code == 415
        assert "multipart/form-data with a file field" in response.json()["error"]
        compressed = {"Content-Type": "video/mp4", "Content-Encoding": "gzip"}
        assert client.post("/v1/predict", content=b"x", headers=compressed).status_code == 415


FORM = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../etc/x"\r\n\r\n%s\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("multipart/form-data", FILE + END, 400, "without a boundary"),
        (FORM, b"no form", 400, "not the form that its Content-Type announces"),
        (FORM, FILE % b"video", 400, "ends before its last boundary"),
        (FORM, b"", 400, "ends before its last boundary"),
        (FORM, FIELD % (b"top_k", b"1") + END, 422, "0 fields named file"),
        (FORM, FILE.replace(b'"file"', b'"video"') % b"a" + END, 422, "video: send the video in the field file"),
        (FORM, FILE % b"a" + FILE % b"b" + END, 422, "several fields named file"),
        (FORM, FIELD % (b"top_k", bytes(1001)) + FILE % b"a" + END, 422, "at most 1000 bytes"),
        (FORM, b"".join(FIELD % (b"f%d" % i, b"") for i in range(17)) + FILE % b"a" + END, 422, "at most 16 fields"),
        (FORM, FILE % b"" + END, 422, "the file is empty"),
        (FORM, FILE % b"\xff\xd8\xff" + END, 422, "a JPEG image"),
    ],
)
def test_broken_forms(server, kind, body, status, message):
    with server.client() as client:
        response = client.post("/v1/predict", content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert message in response.json()["error"]
    assert server.uploads() == []


@pytest.mark.parametrize("body", [b"garbage" * 1000, b"#EXTM3U\nhttp://192.0.2.1/a.ts", b"<html>", b"ffconcat version"])
def test_answers_show_no_path_of_the_server(server, body):
    with server.client() as client:
        response = client.post("/v1/predict", content=body, headers={"Content-Type": "video/mp4"})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error.startswith("the video: ")
    assert str(server.service.folder) not in error
    assert "tmp" not in error


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"pixels": 100}, "this service accepts 100 pixels"),
        ({"frames": 5}, "more than 5 frames"),
        ({"seconds": 0.5}, "2 s long: this service accepts 0.5 s"),
    ],
)
@pytest.mark.parametrize("route", ["predict", "timeline", "explain"])
def test_limits_of_the_video(video, limit, message, route):
    with serve(["motion"], **limit) as running, running.client() as client:
        response = client.post(f"/v1/{route}", files={"file": video.read_bytes()})
    assert response.status_code == 422
    assert message in response.json()["error"]


def test_a_full_disk(server, video, monkeypatch):
    import errno

    from xvit.serving import uploads

    def fail(self, chunk):
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

    monkeypatch.setattr(uploads._Raw, "write", fail)
    with server.client() as client:
        response = client.post("/v1/predict", content=b"x", headers={"Content-Type": "video/mp4"})
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert "disk is full" in response.json()["error"]
    assert server.uploads() == []
