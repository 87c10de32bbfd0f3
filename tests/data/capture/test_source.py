"""Tests of sources: invalid ones, counts and events, and addresses that stall, fail and come back."""

import itertools
import socket
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from helpers.barcode_videos import barcode_frame, truncate, write_audio, write_image, write_video
from helpers.live_sources import TIME_LIMIT, collect, event_kinds, frame_numbers, http_server, send
from xvit.data.capture import source as source_module
from xvit.data.capture.source import Frame, Source
from xvit.utils.errors import VideoError, XViTError


@pytest.fixture(autouse=True)
def loopback_without_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(source_module, "FIRST_RECONNECT_WAIT", 0.05)


def test_stride_and_max_frames_count_every_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    source = Source(path, max_frames=14)
    frames, _ = collect(source, stride=4)
    assert [frame.index for frame in frames] == frame_numbers(frames) == [0, 4, 8, 12]
    assert (source.counts.read, source.counts.skipped) == (14, 10)


def test_invalid_sources_and_options(tmp_path):
    for name, message in {
        tmp_path / "none.mp4": "no such file",
        tmp_path: "a folder",
        "/dev/video97": "no such camera",
        "97": "no such camera",
        "/dev/zero": "cannot be opened",
        write_audio(tmp_path / "audio.mp4"): "no video",
    }.items():
        with pytest.raises(VideoError, match=message):
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


def test_a_refused_connection_is_an_error_without_the_password():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}/x"
    for scheme in ("http", "rtsp", "tcp"):
        with pytest.raises(VideoError, match="refused") as caught:
            collect(Source(f"{scheme}://me:secret@{address}"))
        assert str(caught.value).startswith(f"{scheme}://{address}: ")


def test_a_playlist_reaches_no_other_address_or_file(transport):
    requests = []
    with http_server(lambda handler: requests.append(handler)) as other:
        for target in (f"{other}/a.ts", f"file:{transport}"):
            playlist = f"#EXTM3U\n#EXTINF:2,\n{target}\n".encode()
            with http_server(send(playlist)) as address, pytest.raises(VideoError, match="cannot be opened"):
                collect(Source(address + "/a.m3u8"))
    assert not requests


def test_a_file_over_http_drops_no_frame(transport):
    with http_server(send(transport.read_bytes())) as address:
        frames, events = collect(Source(address))
    assert frame_numbers(frames) == list(range(60))
    assert event_kinds(events) == ["opened"]
    assert "no frame is dropped" in events[0].message


def test_a_server_that_never_responds():
    release = threading.Event()
    with http_server(lambda handler: release.wait(TIME_LIMIT)) as address:
        with pytest.raises(VideoError, match=r"no frame for 0\.5 s"):
            collect(Source(address, timeout=0.5))
        release.set()


def test_a_server_that_stalls_forever(transport):
    data = transport.read_bytes()
    release = threading.Event()
    half = send(data[: len(data) // 2], length=len(data), then=lambda: release.wait(TIME_LIMIT))
    with http_server(half, lambda handler: release.wait(TIME_LIMIT)) as address:
        source = Source(address, timeout=2, reconnect=2)
        frames, events = collect(source)
        release.set()
    assert 20 < len(frames) < 40
    assert event_kinds(events) == ["opened", "reconnecting", "reconnecting", "failed"]
    assert "no frame for 2 s; reconnecting in 0.1 s (1 of 2)" in events[1].message
    assert "not back after 2 attempts" in events[-1].message
    assert source.failed
    assert source.reconnects == 2


def test_a_server_that_fails_and_comes_back(transport):
    data = transport.read_bytes()
    with http_server(send(data[: len(data) // 2], length=len(data)), send(data)) as address:
        source = Source(address, reconnect=3)
        frames, events = collect(source)
    kinds = [kind for kind in event_kinds(events) if kind != "damaged"]
    assert kinds == ["opened", "reconnecting", "reconnected"]
    numbers = frame_numbers(frames)
    restart = numbers.index(0, 1)
    assert numbers[restart:] == list(range(60))
    assert numbers[: restart - 1] == list(range(restart - 1))  # the last one may be cut short
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert (np.diff([frame.time for frame in frames]) > 0).all()
    assert not source.failed


def test_a_live_address_that_ends_is_lost(transport):
    with http_server(send(transport.read_bytes(), with_length=False)) as address:
        source = Source(address, reconnect=0)
        frames, events = collect(source)
    assert frames[-1].index == 59  # the frames that the decoder still held are delivered, too
    assert "oldest frames are dropped" in events[0].message
    assert events[-1].kind == "failed"
    assert source.counts.read == 60


def mjpeg_part(number: int, folder) -> bytes:
    """A barcode frame as one part of a multipart stream, as cameras send it."""
    write_image(folder / "a.jpg", barcode_frame(number))
    image = (folder / "a.jpg").read_bytes()
    return b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(image), image)


def raw_parts(folder, kind: str, frames: int) -> list[bytes]:
    """The bytes of each barcode frame in a stream without timestamps."""
    if kind == "mpjpeg":
        return [mjpeg_part(number, folder) for number in range(frames)]
    codec, options = (kind, {}) if kind == "mpeg4" else ("libx264", {"tune": "zerolatency", "g": "5"})
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.time_base, context.options = 96, 64, Fraction(1, 25), options
    context.pix_fmt = "yuv420p"
    images = [av.VideoFrame.from_ndarray(barcode_frame(number), format="rgb24") for number in range(frames)]
    return [b"".join(bytes(packet) for packet in context.encode(image)) for image in images]


@pytest.mark.parametrize("kind", ["mpjpeg", "mpeg4", "h264"])
def test_a_live_stream_without_timestamps_is_timed_by_arrival(kind, tmp_path):
    """A frame arrives after it was sent and before it is received, however busy the machine is."""
    parts = raw_parts(tmp_path, kind, 16)
    sent, received, frames, arrived = [], [], [], threading.Event()

    def respond(handler):
        handler.send_response(200)
        handler.end_headers()
        for number, part in enumerate(parts):
            if number == 8:  # few frames may be read to recognise the stream, because they arrive all at once
                assert arrived.wait(TIME_LIMIT)
            sent.append(time.monotonic())
            handler.wfile.write(part)
            time.sleep(0.1)  # 10 frames per second, although FFmpeg assumes 25 and the headers may say so

    with http_server(respond) as address:
        for item in Source(address, reconnect=0).frames():
            if isinstance(item, Frame):
                frames.append(item)
                received.append(time.monotonic())
                arrived.set()
            elif item.kind == "opened":
                assert "frames/s" not in item.message  # it is not measured
    indices = [frame.index for frame in frames]
    assert frame_numbers(frames) == indices
    assert indices[-1] == 15
    for first, last in itertools.combinations(range(len(frames)), 2):
        elapsed = frames[last].time - frames[first].time
        assert sent[indices[last]] - received[first] <= elapsed + 1e-3
        assert elapsed <= received[last] - sent[indices[first]] + 1e-3 * (last - first)


def test_frames_at_a_rate_are_counted_over_http(transport):
    """A live source is read as a file is, but for a moment at its very end; nothing is dropped that could be kept."""
    with http_server(send(transport.read_bytes())) as address:
        frames, events = collect(source := Source(address), stride=2, frame_rate=50.0)
    assert [frame.index for frame in frames] == frame_numbers(frames) == list(range(60))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(60) / 25)
    assert (source.counts.repeated, event_kinds(events)) == (0, ["opened"])
    with http_server(send(transport.read_bytes())) as address:
        frames, events = collect(source := Source(address), frame_rate=5.0)
    assert frame_numbers(frames) == list(range(0, 60, 5))
    assert (source.counts.skipped, source.counts.repeated) == (48, 0)


def test_frames_at_a_rate_go_on_after_a_reconnection(transport):
    data = transport.read_bytes()
    with http_server(send(data[: len(data) // 2], length=len(data)), send(data)) as address:
        frames, _ = collect(source := Source(address, reconnect=3), frame_rate=8.0)
    times = np.array([frame.time for frame in frames])
    assert (np.diff(times) > 0.12).all()
    assert times * 8 == pytest.approx(np.round(times * 8))
    numbers = frame_numbers(frames)
    restart = int(np.argmin(np.diff(numbers))) + 1
    assert np.diff(numbers[restart:]) == pytest.approx(25 / 8, abs=1)
    assert source.counts.read > 60


def test_a_server_that_sends_noise(transport):
    noise = np.random.default_rng(0).bytes(200_000)
    with http_server(send(noise)) as address, pytest.raises(VideoError):
        collect(Source(address))
    data = transport.read_bytes()
    mixed = data[: len(data) // 2] + noise[:30_000] + data[len(data) // 2 :]
    with http_server(send(mixed)) as address:
        frames, _ = collect(Source(address))
    assert len(frames) > 40


def test_a_change_of_frame_size_is_reported(transport, tmp_path):
    larger = write_video(tmp_path / "b.ts", frames=20, width=192, height=128)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(transport.read_bytes() + larger.read_bytes())
    frames, events = collect(Source(joined))
    assert event_kinds(events) == ["opened", "size"]
    assert events[1].message == "the frame size changes from 96x64 to 192x128"
    assert frame_numbers(frames) == [*range(60), *range(20)]
    assert (np.diff([frame.time for frame in frames]) > 0).all()  # although the timestamps restart


@pytest.mark.parametrize("lost", [1, 3, 12])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.8])
def test_lost_packets_of_a_stream_are_damage(place, lost, transport, tmp_path):
    """FFmpeg marks the packet before the gap (unless 16 are lost: their counter repeats); decoders conceal it."""
    data = transport.read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    first = int(place * len(packets))
    first += next(i for i, packet in enumerate(packets[first:]) if packet[1] & 31 == 1 and packet[2] == 0)  # of video
    path = tmp_path / "gap.ts"
    path.write_bytes(b"".join(packets[:first] + packets[first + lost :]))
    source = Source(path)
    _, events = collect(source)
    assert "damaged" in event_kinds(events)
    assert source.counts.damaged == sum(event.count for event in events if event.kind == "damaged") >= 1


@pytest.mark.parametrize("frame_rate", [None, 8.0])
@pytest.mark.parametrize("kind", ["h264-mkv", "mjpeg-avi"])
def test_a_file_that_is_cut_short_is_reported(kind, frame_rate, tmp_path):
    intact = write_video(tmp_path / f"a.{kind[-3:]}", kind=kind)
    path = truncate(tmp_path / f"b.{kind[-3:]}", intact, fraction=0.5)
    _, events = collect(Source(intact), frame_rate=frame_rate)
    assert event_kinds(events) == ["opened"]
    _, events = collect(Source(path), frame_rate=frame_rate)
    assert event_kinds(events)[:2] == ["opened", "damaged"]
    assert events[1].message.startswith(f"{path}: cut short: ")


def test_joined_recordings_are_not_damaged(transport, tmp_path):
    path = tmp_path / "joined.ts"
    path.write_bytes(3 * transport.read_bytes())
    frames, events = collect(source := Source(path))
    assert (event_kinds(events), source.counts.damaged) == (["opened"], 0)
    assert frame_numbers(frames) == 3 * [*range(60)]


def test_a_protocol_that_ffmpeg_lacks_is_named(monkeypatch):
    def fail(*args, **kwargs):
        raise av.error.ProtocolNotFoundError(1330794744, "Protocol not found")

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(VideoError) as caught:
        list(Source("srt://user:pass@127.0.0.1:1?passphrase=x").frames())
    expected = "the FFmpeg in the installed PyAV was built without srt://; send another protocol"
    assert str(caught.value) == f"srt://127.0.0.1:1?...: {expected}"
