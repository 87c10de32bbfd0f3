"""Time limits of reading videos: tested at each packet and each picture, without threads that stay behind."""

import threading
from types import SimpleNamespace

import pytest

from helpers.barcode_videos import FORMATS, write_frames, write_video
from xvit.config import DataConfig
from xvit.data import timeout
from xvit.data.annotations import Sample
from xvit.data.decode import decode, probe
from xvit.data.decode.sequential import FrameReader
from xvit.data.timeout import call_with_timeout, check_deadline, restart_deadline, time_limit
from xvit.data.tools.check import check_file
from xvit.data.tools.resize import resize_videos
from xvit.utils.errors import VideoError

FRAMES = 24


class Clock:
    """A clock that goes on by `step` seconds whenever somebody looks at it."""

    def __init__(self, step: float) -> None:
        self.now, self.step, self.looks = 0.0, step, 0

    def monotonic(self) -> float:
        self.now += self.step
        self.looks += 1
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock(1.0)
    monkeypatch.setattr(timeout, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def write(tmp_path, kind: str):
    if kind == "frames":
        return write_frames(tmp_path / "v", frames=FRAMES, width=64)
    return write_video(tmp_path / f"v{FORMATS[kind].suffix}", kind=kind, frames=FRAMES)


@pytest.mark.parametrize(
    ("kind", "read", "num_tests"),
    [
        ("h264-mp4", probe, FRAMES),  # a scan of the packets
        ("h264-mp4", lambda path: decode(path, [3]), FRAMES + 4),  # and the packets from the keyframe on
        ("h264-ts", lambda path: decode(path, [FRAMES - 1]), 2 * FRAMES),  # and all of them
        ("mpeg2-mpg", lambda path: decode(path, [FRAMES - 1]), 2 * FRAMES),
        ("gif", lambda path: decode(path, [FRAMES - 1]), 2 * FRAMES),
        ("frames", lambda path: decode(path, range(FRAMES)), FRAMES),  # pictures
    ],
)
def test_reading_ends_at_each_packet_once_the_time_is_over(kind, read, num_tests, tmp_path, clock):
    """Never is the video that was not read to its end called damaged, or taken for a shorter one."""
    path = write(tmp_path, kind)
    with time_limit(path, 1000, "too slow"):
        read(path)
    looks = clock.looks - 1  # without that at the start
    assert looks >= num_tests
    for seconds in range(1, looks):
        with pytest.raises(VideoError, match="too slow"), time_limit(path, seconds, "too slow"):
            read(path)
    with time_limit(path, looks, "too slow"):
        read(path)
    clock.step = 1000.0
    read(path)  # no limit


def test_each_frame_of_a_whole_long_video_has_the_time(tmp_path, clock):
    path = write(tmp_path, "h264-mp4")
    reader = FrameReader(path)
    with time_limit(path, 8, "too slow"):  # a decoder takes a few packets before it gives the first frame
        assert sum(len(times) for times, _ in reader) == FRAMES
    assert clock.looks > 2 * FRAMES
    with pytest.raises(VideoError, match="too slow"), time_limit(path, 1, "too slow"):
        list(reader)


@pytest.mark.parametrize("full", [False, True])
def test_a_check_reports_a_slow_video(full, tmp_path, clock):
    report = check_file([Sample(path=str(write(tmp_path, "h264-mp4")), label=0, id="v")], full=full, timeout=5)
    assert (report.kind, report.reason) == ("unreadable", "not read within 5 s (data.decode_timeout)")


def test_resizing_goes_on_after_a_slow_video(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(DataConfig, "decode_timeout", 40.0)
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "long.mp4", frames=100)  # its scan takes too long
    write_video(tmp_path / "in" / "short.mp4", frames=20)
    result = resize_videos(tmp_path / "in", tmp_path / "out", short_side=32)
    assert [str(error) for error in result.failures] == [f"{tmp_path / 'in' / 'long.mp4'}: no frame within 40 s"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"] == ["short.mp4"]


def test_a_call_that_is_timed_out_leaves_no_thread(monkeypatch):
    monkeypatch.setattr(timeout, "_GRACE", 600.0)

    def loop():
        while True:
            check_deadline()

    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(VideoError, match=r"a\.mp4: not read within 0\.01 s \(data\.decode_timeout\)"):
            call_with_timeout(loop, "a.mp4", 0.01)
    assert threading.active_count() <= before + 1
    assert call_with_timeout(lambda: 7, "b.mp4", 60) == 7
    assert threading.active_count() <= before + 1


def test_a_call_that_hangs_is_given_up_and_its_thread_used_again(monkeypatch):
    monkeypatch.setattr(timeout, "_GRACE", 0.0)
    monkeypatch.setattr(timeout, "_idle_threads", [])
    release = threading.Event()
    with pytest.raises(VideoError, match="not read within"):
        call_with_timeout(lambda: release.wait() and "late", "a.mp4", 0.01)
    assert call_with_timeout(lambda: "next", "b.mp4", 60) == "next"  # in another thread; not the late result
    hung = threading.active_count()
    release.set()
    while len(timeout._idle_threads) < 2:  # until it comes back
        threading.Event().wait(0.01)
    results = [call_with_timeout(lambda: "again", "c.mp4", 60) for _ in range(3)]
    assert results == ["again"] * 3
    assert threading.active_count() == hung


def test_a_call_that_makes_progress_has_its_time_again(clock):
    clock.step = 0.0

    def read_in_parts():
        for _ in range(5):
            clock.now += 9
            check_deadline()
            restart_deadline()
        return "all"

    assert call_with_timeout(read_in_parts, "a.mp4", 10) == "all"
