"""Sources: each frame given once or counted, every fault said, nothing that waits for ever."""

import contextlib
import http.server
import itertools
import os
import socket
import sys
import threading
import time

import av
import numpy as np
import pytest
import torch

from helpers.barcode_videos import barcode_frame, corrupt, read_number, truncate, write_audio, write_video
from xvit.data.capture import source as source_module
from xvit.data.capture.source import Frame, Source
from xvit.data.decode.video import decode, probe
from xvit.utils.errors import VideoError, XViTError

LIMIT = 20  # seconds, for a test that hangs


@pytest.fixture(autouse=True)
def loopback_without_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(source_module, "_FIRST_WAIT", 0.05)


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    """60 frames in a container that can be read from anywhere."""
    path = tmp_path_factory.mktemp("transport") / "a.ts"
    return write_video(path, frames=60, kind="h264-mp4")


def kinds(notices) -> list[str]:
    return [notice.kind for notice in notices]


def numbers(frames) -> list[int]:
    return [read_number(frame.pixels.permute(1, 2, 0).numpy()) for frame in frames]


def collect(source, **options):
    """(frames, notices), in a thread of its own, so that a source that hangs fails the test."""
    frames, notices, faults = [], [], []

    def run():
        try:
            for item in source.frames(**options):
                (frames if isinstance(item, Frame) else notices).append(item)
        except XViTError as error:
            faults.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "hangs"
    if faults:
        raise faults[0]
    tally = source.tally
    assert tally.read == tally.given + tally.skipped + tally.dropped + tally.left
    assert tally.given == len(frames)
    for kind in ("dropped", "damaged"):
        assert sum(notice.count for notice in notices if notice.kind == kind) == getattr(tally, kind)
    return frames, notices


@contextlib.contextmanager
def server(*answers):
    """An HTTP server that gives each request the next answer, the last one again and again: answer(handler)."""
    asked = itertools.count()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # the reader has gone
                answers[min(next(asked), len(answers) - 1)](self)

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/live"
    finally:
        made.shutdown()
        thread.join()
        made.socket.close()


def sends(data, *, length=True, promised=None, then=lambda: None):
    def answer(handler):
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(promised or len(data)))
        handler.end_headers()
        handler.wfile.write(data)
        handler.wfile.flush()
        then()

    return answer


@contextlib.contextmanager
def standard_input(monkeypatch, *parts, pause=0.0, end=True):
    """`parts` come through the standard input."""
    reading, writing = os.pipe()

    def write():
        with contextlib.suppress(BrokenPipeError):
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(writing, view) :]
                time.sleep(pause)
        if end:
            os.close(writing)

    with os.fdopen(reading, "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        yield
    thread.join(LIMIT)
    if not end:
        os.close(writing)


@pytest.mark.parametrize("kind", ["h264-mp4", "mpeg4-avi", "gif"])
@pytest.mark.parametrize("short_side", [None, 24])
def test_a_file_gives_the_frames_that_decode_gives(kind, short_side, tmp_path):
    path = write_video(tmp_path / ("a" + {"gif": ".gif", "mpeg4-avi": ".avi"}.get(kind, ".mp4")), frames=30, kind=kind)
    clip = decode(path, range(probe(path).num_frames), short_side=short_side)
    frames, notices = collect(Source(path), short_side=short_side)
    assert kinds(notices) == ["opened"]
    assert torch.equal(torch.stack([frame.pixels for frame in frames]), clip.frames)
    assert [frame.index for frame in frames] == clip.indices.tolist()
    assert [frame.time for frame in frames] == pytest.approx(clip.times.tolist())


def test_a_rotated_file_is_turned_as_decode_turns_it(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=5, rotation=90)
    frames, _ = collect(Source(path))
    assert torch.equal(torch.stack([frame.pixels for frame in frames]), decode(path, range(5)).frames)


def test_strides_and_limits_count_every_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    source = Source(path, max_frames=14)
    frames, _ = collect(source, stride=4)
    assert [frame.index for frame in frames] == numbers(frames) == [0, 4, 8, 12]
    assert (source.tally.read, source.tally.skipped) == (14, 10)


def test_a_slow_taker_of_a_file_loses_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    source = Source(path, timeout=0.3)
    taken = [time.sleep(0.02) or item for item in source.frames() if isinstance(item, Frame)]
    assert numbers(taken) == list(range(20))


def test_real_time_gives_frames_at_their_times_and_drops_the_oldest(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    began = time.monotonic()
    frames, _ = collect(source := Source(path, real_time=True))
    assert time.monotonic() - began > 0.9
    assert numbers(frames) == [frame.index for frame in frames]  # a busy machine may drop some
    assert source.tally.read == 25
    assert [frame.due - frames[0].due for frame in frames] == pytest.approx([frame.time for frame in frames], abs=1e-6)

    source = Source(path, real_time=True)
    taken, notices = [], []
    for item in source.frames():
        (taken if isinstance(item, Frame) else notices).append(item)
        time.sleep(0.1)
    assert source.tally.dropped > 5
    assert 25 == source.tally.read == source.tally.given + source.tally.dropped
    assert sum(notice.count for notice in notices) == source.tally.dropped
    assert numbers(taken) == [frame.index for frame in taken]
    assert taken[-1].index == 24  # the latest frames stay


def test_a_stop_leaves_what_was_read_ahead(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    source = Source(path)
    given = 0
    for item in source.frames():
        if isinstance(item, Frame):
            given += 1
            time.sleep(0.1)
            source.stop()
    assert given == source.tally.given == 1
    assert source.tally.left == source.tally.read - 1 > 0
    assert not source.failed


def test_what_cannot_be_a_source(tmp_path):
    for name, text in {
        tmp_path / "none.mp4": "no such file",
        tmp_path: "a folder",
        "/dev/video97": "no such camera",
        "97": "no such camera",
        "/dev/zero": "cannot be opened",
        write_audio(tmp_path / "sound.mp4"): "no video",
    }.items():
        with pytest.raises(VideoError, match=text):
            collect(Source(name))
    with pytest.raises(XViTError, match=r'"htps://"\. Did you mean "https"'):
        Source("htps://example.org/a")
    with pytest.raises(XViTError, match="unknown kind of address"):
        Source("concat://a|b")
    for raw in ("320x240", "0x1@5", "axb@c", "320x240@0"):
        with pytest.raises(XViTError, match="320x240@25"):
            Source("-", raw=raw)
    with pytest.raises(XViTError, match="standard input only"):
        Source("a.mp4", raw="320x240@25")
    with pytest.raises(XViTError, match="timeout=0"):
        Source("a.mp4", timeout=0)


def test_an_address_that_refuses_is_an_error_without_its_password():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}/x"
    for scheme in ("http", "rtsp", "tcp"):
        with pytest.raises(VideoError, match="refused") as caught:
            collect(Source(f"{scheme}://me:secret@{address}", timeout=2))
        assert str(caught.value).startswith(f"{scheme}://{address}: ")


def test_a_play_list_reaches_no_other_address_or_file(tmp_path, transport):
    asked = []
    with server(lambda handler: asked.append(handler)) as other:
        lists = [f"#EXTM3U\n#EXTINF:2,\n{place}\n".encode() for place in (f"{other}/a.ts", f"file:{transport}")]
        for text in lists:
            with server(sends(text)) as address, pytest.raises(VideoError, match="cannot be opened"):
                collect(Source(address + "/a.m3u8", timeout=2))
    assert not asked


def test_a_container_through_a_pipe(monkeypatch, transport, tmp_path):
    matroska = write_video(tmp_path / "a.mkv", frames=60)
    for path in (transport, matroska):
        with standard_input(monkeypatch, path.read_bytes()):
            source = Source("-")
            frames, notices = collect(source)
        assert numbers(frames) == list(range(60))
        assert kinds(notices) == ["opened"]
        assert source.tally.dropped == 0


def test_raw_pictures_through_a_pipe(monkeypatch):
    pictures = [barcode_frame(number) for number in range(12)]
    data = b"".join(picture.tobytes() for picture in pictures)
    with standard_input(monkeypatch, data[:5000], data[5000:], pause=0.05):
        frames, _ = collect(Source("-", raw="96x64@10"))
    assert np.array_equal(np.stack([frame.pixels.permute(1, 2, 0).numpy() for frame in frames]), np.stack(pictures))
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(12)])


def test_a_pipe_that_stalls_or_holds_no_video(monkeypatch, transport):
    data = transport.read_bytes()
    with standard_input(monkeypatch, data, end=False):
        source = Source("-", timeout=0.5)
        frames, notices = collect(source)
    assert numbers(frames) == list(range(len(frames)))
    assert len(frames) > 50
    assert kinds(notices) == ["opened", "failed"]
    assert "no frame for 0.5 s" in notices[-1].text
    assert source.failed
    with standard_input(monkeypatch, end=False), pytest.raises(VideoError, match=r"no frame for 0\.3 s"):
        collect(Source("-", timeout=0.3))
    with standard_input(monkeypatch, b"no video" * 1000), pytest.raises(VideoError, match="cannot be opened"):
        collect(Source("-", timeout=1))
    with standard_input(monkeypatch), pytest.raises(VideoError, match="cannot be opened"):
        collect(Source("-", timeout=1))


def test_a_file_over_http_drops_nothing(transport):
    with server(sends(transport.read_bytes())) as address:
        frames, notices = collect(Source(address))
    assert numbers(frames) == list(range(60))
    assert kinds(notices) == ["opened"]
    assert "no frame is dropped" in notices[0].text


def test_a_server_that_never_answers(transport):
    hold = threading.Event()
    with server(lambda handler: hold.wait(LIMIT)) as address:
        with pytest.raises(VideoError, match=r"no frame for 0\.5 s"):
            collect(Source(address, timeout=0.5))
        hold.set()


def test_a_server_that_stalls_in_the_middle_for_ever(transport):
    data = transport.read_bytes()
    hold = threading.Event()
    half = sends(data[: len(data) // 2], promised=len(data), then=lambda: hold.wait(LIMIT))
    with server(half, lambda handler: hold.wait(LIMIT)) as address:
        source = Source(address, timeout=0.5, reconnect=2)
        frames, notices = collect(source)
        hold.set()
    assert 20 < len(frames) < 40
    assert kinds(notices) == ["opened", "reconnecting", "reconnecting", "failed"]
    assert "no frame for 0.5 s; reconnecting in 0.1 s (1 of 2)" in notices[1].text
    assert "not back after 2 attempts" in notices[-1].text
    assert source.failed
    assert source.reconnects == 2


def test_a_server_that_dies_and_comes_back(transport):
    data = transport.read_bytes()
    with server(sends(data[: len(data) // 2], promised=len(data)), sends(data)) as address:
        source = Source(address, reconnect=3)
        frames, notices = collect(source)
    kept = [kind for kind in kinds(notices) if kind != "damaged"]
    assert kept == ["opened", "reconnecting", "reconnected"]
    shown = numbers(frames)
    again = shown.index(0, 1)
    assert shown[again:] == list(range(60))
    assert shown[: again - 1] == list(range(again - 1))  # the last one may be cut short
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert (np.diff([frame.time for frame in frames]) > 0).all()
    assert not source.failed


def test_a_live_address_that_ends_is_lost(transport):
    with server(sends(transport.read_bytes(), length=False)) as address:
        source = Source(address, reconnect=0)
        frames, notices = collect(source)
    assert frames[-1].index == 59  # what the decoder still held too
    assert "oldest frames are dropped" in notices[0].text
    assert notices[-1].kind == "failed"
    assert source.tally.read == 60


def test_a_server_that_sends_garbage(transport):
    noise = np.random.default_rng(0).bytes(200_000)
    with server(sends(noise)) as address, pytest.raises(VideoError):
        collect(Source(address, timeout=1))
    data = transport.read_bytes()
    middle = data[: len(data) // 2] + noise[:30_000] + data[len(data) // 2 :]
    with server(sends(middle)) as address:
        frames, _ = collect(Source(address, timeout=1))
    assert len(frames) > 40  # survived


def test_damaged_packets_are_counted_and_survived(tmp_path):
    good = write_video(tmp_path / "good.mp4", frames=60, kind="h264-intra")
    frames, notices = collect(source := Source(corrupt(tmp_path / "bad.mov", good)))
    assert source.tally.damaged > 5
    assert "damaged" in kinds(notices)
    assert numbers(frames[:10]) == list(range(10))
    assert read_number(frames[-1].pixels.permute(1, 2, 0).numpy()) == 59
    with pytest.raises(VideoError):
        collect(Source(truncate(tmp_path / "short.mp4", good, share=0.5)))


def test_a_change_of_resolution_is_reported_and_goes_on(transport, tmp_path):
    larger = write_video(tmp_path / "b.ts", frames=20, width=192, height=128)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(transport.read_bytes() + larger.read_bytes())
    frames, notices = collect(Source(joined))
    assert kinds(notices) == ["opened", "size"]
    assert notices[1].text == "the picture size changes from 96x64 to 192x128"
    assert numbers(frames) == [*range(60), *range(20)]
    assert (np.diff([frame.time for frame in frames]) > 0).all()  # though the timestamps begin anew


def test_timestamps_are_not_believed(tmp_path):
    """A jump of hours is one frame's time: in real time it would be waited for."""
    pts = [4 * number + (10**6 if number > 10 else 0) for number in range(20)]
    path = write_video(tmp_path / "a.mkv", frames=20, pts=pts)
    frames, _ = collect(source := Source(path, real_time=True, timeout=2))
    assert source.tally.read == 20
    assert frames[-1].time < 2


def test_a_pause_in_the_video_is_no_stall(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=6, pts=[0, 4, 8, 100, 104, 108])  # 0.9 s between two frames
    _, notices = collect(source := Source(path, real_time=True, timeout=0.4))
    assert source.tally.read == 6
    assert "failed" not in kinds(notices)


def test_a_reader_that_hangs_is_left_behind(monkeypatch, tmp_path):
    """A system's call that ignores all timeouts, such as looking up a name."""
    hold = threading.Event()
    monkeypatch.setattr(av, "open", lambda *args, **options: hold.wait(LIMIT))
    with pytest.raises(VideoError, match=r"no frame for 0\.2 s"):
        collect(Source("rtsp://127.0.0.1/x", timeout=0.2))
    hold.set()
