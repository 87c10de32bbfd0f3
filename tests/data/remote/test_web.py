"""Videos of web servers, which may be hostile."""

import time
from pathlib import Path

import pytest

from helpers.barcode_videos import write_video
from helpers.color_videos import CLIP
from helpers.remote import reset, send, web_server
from xvit.data.annotations import Sample
from xvit.data.reading import read_test_clips
from xvit.data.remote import local_video
from xvit.data.remote.download import read_beginning, remote_size
from xvit.data.remote.web import is_public
from xvit.utils.addresses import allow_remote
from xvit.utils.errors import VideoError, XViTError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> bytes:
    return write_video(tmp_path_factory.mktemp("web") / "a.mp4").read_bytes()


@pytest.fixture
def web(data, quick_retries):
    """The answers of a server whose host is allowed, and its address."""
    answers = {"/a.mp4": data}
    with web_server(answers) as url:
        allow_remote(url)
        yield answers, url


def fetch(address: str) -> tuple[bytes, tuple[str, ...]]:
    with local_video(address) as video:
        return Path(video.path).read_bytes(), video.warnings


def reason(address: str) -> str:
    with pytest.raises(VideoError) as caught:
        fetch(address)
    return caught.value.reason


def test_files_of_known_and_unknown_size(web, data):
    answers, url = web
    answers["/unknown.mp4"] = lambda request: send(request, data, length=None)
    answers["/zipped.mp4"] = lambda request: send(request, data, Content_Encoding="identity")
    for name in ("a", "unknown", "zipped"):
        assert fetch(f"{url}/{name}.mp4") == (data, ())
    assert remote_size(f"{url}/a.mp4") == len(data)
    assert read_beginning(f"{url}/a.mp4", 100) == (len(data), data[:100])


def test_truncated_bodies_and_resets_are_retried(web, data):
    answers, url = web
    calls = []

    def flaky(request) -> None:
        calls.append(request.path)
        if len(calls) == 1:
            send(request, data[:500], length=len(data))
        elif len(calls) == 2:
            send(request, data[:100], length=len(data))
            reset(request.connection)
        else:
            send(request, data, status=503 if len(calls) == 3 else 200)

    answers["/flaky.mp4"] = flaky
    assert fetch(f"{url}/flaky.mp4") == (data, ("downloaded with 3 retries",))
    answers["/short.mp4"] = lambda request: send(request, data[:500], length=len(data))
    assert reason(f"{url}/short.mp4").startswith("not downloaded in 6 attempts (")


def test_endless_bodies_end(web, monkeypatch):
    answers, url = web
    sent = [0]

    def endless(request) -> None:
        send(request, b"", length=None)
        while True:
            request.wfile.write(bytes(2**16))
            sent[0] += 2**16

    answers["/endless.mp4"] = endless
    monkeypatch.setenv("XVIT_REMOTE_MAX_GB", "0.01")
    assert reason(f"{url}/endless.mp4") == "larger than 0.01 GB (XVIT_REMOTE_MAX_GB)"
    assert sent[0] < 10**8
    answers["/huge.mp4"] = lambda request: send(request, b"data", length=10**15)
    assert reason(f"{url}/huge.mp4") == "larger than 0.01 GB (XVIT_REMOTE_MAX_GB)"


def test_slow_bodies_end(web, monkeypatch):
    answers, url = web

    def slow(request) -> None:
        send(request, b"", length=1000)
        for _ in range(1000):
            request.wfile.write(b"x")
            time.sleep(0.05)

    answers["/slow.mp4"] = slow
    monkeypatch.setenv("XVIT_REMOTE_TIMEOUT", "0.3")
    assert reason(f"{url}/slow.mp4") == "not downloaded within 0.3 s (XVIT_REMOTE_TIMEOUT)"


def test_permanent_errors(web):
    answers, url = web
    answers["/denied.mp4"] = lambda request: send(request, b"", status=403)
    answers["/login.mp4"] = lambda request: send(request, b"", status=401)
    answers["/teapot.mp4"] = lambda request: send(request, b"", status=418)
    assert reason(f"{url}/none.mp4") == "not found (no such file, bucket or host)"
    assert reason(f"{url}/denied.mp4") == "access denied (403: check the permissions, or the address)"
    assert reason(f"{url}/login.mp4") == "access denied (401: check the permissions, or the address)"
    assert reason(f"{url}/teapot.mp4").startswith("cannot be downloaded (418: ")
    allow_remote("http")
    assert reason("http://name.invalid/a.mp4").split(" (")[0] in ("no such host", "not downloaded in 6 attempts")


def test_redirects_lead_only_to_what_is_allowed(web, data):
    answers, url = web
    port = url.rpartition(":")[2]
    with web_server({"/b.mp4": data}) as other:
        targets = {
            "/same": (f"{url}/a.mp4", ""),
            "/relative": ("/a.mp4", ""),
            "/other": (f"{other}/b.mp4", "which is not allowed"),
            "/name": (f"http://localhost:{port}/a.mp4", "which is not allowed"),
            "/file": ("file:///etc/passwd", "which is not allowed"),
            "/loop": ("/loop", "too many redirects"),
        }
        for path, (target, _) in targets.items():
            answers[path] = lambda request, target=target: send(request, b"", status=302, Location=target)
        for path, (_, expected) in targets.items():
            if expected:
                assert expected in reason(url + path), path
            else:
                assert fetch(url + path)[0] == data
        allow_remote("http")  # of which private hosts are no part
        for path in ("/other", "/name"):
            assert reason(url + path).startswith("its host is in a private or local network"), path
        allow_remote(other)
        assert fetch(f"{url}/other")[0] == data


def test_private_hosts_are_reached_by_name_only(quick_retries, data):
    allow_remote("http", "https")
    with web_server({"/a.mp4": data}) as url:
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"):
            assert "private or local network" in reason(f"http://{host}:{port}/a.mp4"), host
        assert "private or local network" in reason("http://169.254.169.254/latest/meta-data")
        allow_remote(url)
        assert fetch(f"{url}/a.mp4")[0] == data
        with pytest.raises(VideoError, match="private or local network"):
            fetch(f"http://localhost:{port}/a.mp4")


def test_hosts():
    private = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1"]
    private += ["fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "224.0.0.1", "::"]
    assert not any(map(is_public, private))
    assert all(map(is_public, ["8.8.8.8", "2606:4700:4700::1111"]))


def test_playlists_open_nothing(web):
    answers, url = web
    answers["/list.mp4"] = f"#EXTM3U\n#EXTINF:1,\n{url}/a.mp4\n".encode()
    sample = Sample(path=f"{url}/list.mp4", label=None, id="")
    with pytest.raises(VideoError, match=r"list\.mp4: an HLS playlist, .* ffmpeg -i video -c copy video\.mp4"):
        read_test_clips(sample, CLIP, 1, 0)


def test_https_without_leave(web):
    _, url = web
    with pytest.raises(XViTError, match="--allow-remote https"):
        fetch(url.replace("http://", "https://"))
