"""Tests of connections to files and pipes: exact frames, timing, dropping, timestamps, damage, hanging threads."""

import threading
import time

import av
import numpy as np
import pytest

from helpers.barcode_videos import barcode_frame, corrupt, read_number, truncate, write_video
from helpers.live_sources import TIME_LIMIT, collect, event_kinds, frame_numbers, standard_input
from xvit.data.capture.source import Frame, Source
from xvit.data.decode import decode, probe
from xvit.utils.errors import VideoError


@pytest.mark.parametrize("kind", ["h264-mp4", "mpeg4-avi", "gif"])
@pytest.mark.parametrize("short_side", [None, 24])
def test_a_file_gives_the_same_frames_as_decode(kind, short_side, tmp_path):
    path = write_video(tmp_path / ("a" + {"gif": ".gif", "mpeg4-avi": ".avi"}.get(kind, ".mp4")), frames=30, kind=kind)
    clip = decode(path, range(probe(path).num_frames), short_side=short_side)
    frames, events = collect(Source(path), short_side=short_side)
    assert event_kinds(events) == ["opened"]
    assert np.array_equal(np.stack([frame.pixels for frame in frames]), clip.frames)
    assert [frame.index for frame in frames] == clip.indices.tolist()
    assert [frame.time for frame in frames] == pytest.approx(clip.times.tolist())


def test_a_rotated_file_gives_the_same_frames_as_decode(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=5, rotation=90)
    frames, _ = collect(Source(path))
    assert np.array_equal(np.stack([frame.pixels for frame in frames]), decode(path, range(5)).frames)


def test_a_slow_consumer_of_a_file_loses_no_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20)
    source, frames = Source(path, timeout=2), []
    for item in source.frames():
        if isinstance(item, Frame):
            frames.append(item)
            time.sleep(2.2 if len(frames) == 1 else 0)
    assert frame_numbers(frames) == list(range(20))


class Clock:
    """A clock that goes on by 5 ms whenever somebody looks at it."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 0.005
        return self.now


def test_real_time_delivers_no_frame_before_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr("xvit.data.capture.connection.time", clock := Clock())
    source, num_frames = Source(write_video(tmp_path / "a.mp4", frames=25), real_time=True), 0
    for item in source.frames():
        if isinstance(item, Frame):
            assert clock.now >= item.due_time
            num_frames += 1
    assert num_frames > 0


def test_real_time_drops_the_oldest_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    frames, _ = collect(source := Source(path, real_time=True))
    assert frame_numbers(frames) == [frame.index for frame in frames]  # a busy machine may drop some
    assert source.counts.read == 25
    delays = [frame.due_time - frames[0].due_time for frame in frames]
    assert delays == pytest.approx([frame.time for frame in frames], abs=1e-6)

    source = Source(path, real_time=True)
    frames, events = [], []
    for item in source.frames():
        (frames if isinstance(item, Frame) else events).append(item)
        while source.counts.read < 25:  # a slow consumer
            time.sleep(0.01)
    assert source.counts.dropped > 5
    assert 25 == source.counts.read == source.counts.delivered + source.counts.dropped
    assert sum(event.count for event in events) == source.counts.dropped
    assert frame_numbers(frames) == [frame.index for frame in frames]
    assert frames[-1].index == 24  # the latest frames stay


def test_stop_counts_buffered_frames_as_undelivered(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=25)
    source = Source(path)
    num_frames = 0
    for item in source.frames():
        if isinstance(item, Frame):
            num_frames += 1
            while source.counts.read < 3:
                time.sleep(0.01)
            source.stop()
    assert num_frames == source.counts.delivered == 1
    assert source.counts.undelivered == source.counts.read - 1 > 0
    assert not source.failed


def test_a_container_through_a_pipe(monkeypatch, transport, tmp_path):
    matroska = write_video(tmp_path / "a.mkv", frames=60)
    for path in (transport, matroska):
        with standard_input(monkeypatch, path.read_bytes()):
            source = Source("-")
            frames, events = collect(source)
        assert frame_numbers(frames) == list(range(60))
        assert event_kinds(events) == ["opened"]
        assert source.counts.dropped == 0


def test_raw_frames_through_a_pipe(monkeypatch):
    images = [barcode_frame(number) for number in range(12)]
    data = b"".join(image.tobytes() for image in images)
    with standard_input(monkeypatch, data[:5000], data[5000:], pause=0.05):
        frames, _ = collect(Source("-", raw="96x64@10"))
    assert np.array_equal(np.stack([frame.pixels for frame in frames]), np.stack(images))
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(12)])


def test_a_pipe_that_stalls_or_has_no_video(monkeypatch, transport):
    data = transport.read_bytes()
    with standard_input(monkeypatch, data, close=False):
        source = Source("-", timeout=2)
        frames, events = collect(source)
    assert frame_numbers(frames) == list(range(len(frames)))
    assert len(frames) > 50
    assert event_kinds(events) == ["opened", "failed"]
    assert "no frame for 2 s" in events[-1].message
    assert source.failed
    with standard_input(monkeypatch, close=False), pytest.raises(VideoError, match=r"no frame for 0\.3 s"):
        collect(Source("-", timeout=0.3))
    with standard_input(monkeypatch, b"no video" * 1000), pytest.raises(VideoError, match="cannot be opened"):
        collect(Source("-"))
    with standard_input(monkeypatch), pytest.raises(VideoError, match="cannot be opened"):
        collect(Source("-"))


def test_damaged_packets_are_counted_and_skipped(tmp_path):
    good = write_video(tmp_path / "good.mp4", frames=60, kind="h264-intra")
    frames, events = collect(source := Source(corrupt(tmp_path / "bad.mov", good)))
    assert source.counts.damaged > 5
    assert "damaged" in event_kinds(events)
    assert frame_numbers(frames[:10]) == list(range(10))
    assert read_number(frames[-1].pixels) == 59
    with pytest.raises(VideoError):
        collect(Source(truncate(tmp_path / "short.mp4", good, fraction=0.5)))


def test_a_jump_of_the_timestamps_is_ignored(tmp_path):
    """A jump of hours counts as one frame: in real time the source would wait for hours."""
    pts = [4 * number + (10**6 if number > 10 else 0) for number in range(20)]
    path = write_video(tmp_path / "a.mkv", frames=20, pts=pts)
    frames, _ = collect(source := Source(path, real_time=True))
    assert source.counts.read == 20
    assert frames[-1].time < 2


def test_a_pause_in_the_video_is_not_a_timeout(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=6, pts=[0, 4, 8, 240, 244, 248])  # 2.3 s between two frames
    _, events = collect(source := Source(path, real_time=True, timeout=2))
    assert source.counts.read == 6
    assert "failed" not in event_kinds(events)


def test_a_thread_that_hangs_is_abandoned(monkeypatch):
    """A system call can ignore all timeouts, for example a name lookup."""
    release = threading.Event()
    monkeypatch.setattr(av, "open", lambda *args, **options: release.wait(TIME_LIMIT))
    with pytest.raises(VideoError, match=r"no frame for 0\.2 s"):
        collect(Source("rtsp://127.0.0.1/x", timeout=0.2))
    release.set()
