"""Tests of the clock: joined recordings, and streams without timestamps."""

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.barcode_videos import FORMATS, barcode_frame, read_in_order, read_numbers, write_video
from helpers.live_sources import collect, event_kinds, frame_numbers, standard_input
from xvit.data.capture.source import Source
from xvit.data.decode import decode, probe
from xvit.data.decode.clock import Clock, Timing, display_order, split_sections
from xvit.data.tools.resize import resize_video

INTERVAL = 0.04
ASSUMED = "no timestamps: 25 frames per second assumed"


# Times of joined recordings


@given(
    st.lists(st.lists(st.floats(0.001, 9.9), max_size=8), min_size=1, max_size=4),
    st.lists(st.floats(20, 1e5), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_a_clock_counts_on_where_timestamps_fall_or_jump(parts, steps, falls):
    timestamps, expected, steps_within, timestamp, time = [], [], [], 1.4, 0.0
    for number, (intervals, step, falling) in enumerate(zip(parts, steps, falls, strict=False)):
        if number:
            timestamp = timestamp - step if falling else timestamp + step
            time += median(steps_within[-9:]) if steps_within else INTERVAL
        timestamps.append(timestamp)
        expected.append(time)
        for interval in intervals:
            timestamp, time = timestamp + interval, time + interval
            timestamps.append(timestamp)
            expected.append(time)
            steps_within.append(interval)
    clock = Clock(INTERVAL, max_step=10)
    np.testing.assert_allclose([clock.tick(value) for value in timestamps], expected, atol=1e-6)


@given(st.lists(st.one_of(st.none(), st.integers(-(10**7), 10**7)), max_size=50), st.integers(0, 100))
def test_times_never_fall(milliseconds, start):
    clock = Clock(INTERVAL, max_step=10, start=start)
    times = [clock.tick(None if value is None else value / 1000) for value in milliseconds]
    assert times[:1] == pytest.approx([start][: len(times)])
    assert all(before < after <= before + 10 + 1e-6 for before, after in pairwise(times))


def test_equal_and_missing_timestamps_follow_by_one_interval_and_shift_nothing_after_them():
    clock = Clock(INTERVAL)
    times = [clock.tick(value) for value in (5.0, None, 5.08, 5.12, 5.12, 5.5, 99.0)]
    assert times == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.5, 94.0])
    limited = Clock(INTERVAL, max_step=10)
    assert [limited.tick(value) for value in (3.0, 13.0, 23.5)] == pytest.approx([0, 10, 20])  # 10.5 s is too long


TIMED, RAW = 0, 0x80  # flags of a format; 0x80 is AVFMT_NOTIMESTAMPS
HEADERS = {  # format, flags, rates (average, stated, guessed), then the rate, raw, longest step
    "the average rate counts": (("mov,mp4", TIMED, (30, 24, 12)), (30, False, 86400)),
    "recordings may be joined": (("mpegts", TIMED, (30, 24, 12)), (30, False, 10)),
    "an implausible average": (("matroska", TIMED, (1001, 24, 12)), (24, False, 86400)),
    "a plausible average": (("matroska", TIMED, (1000, 24, 12)), (1000, False, 86400)),
    "less than one per second": (("matroska", TIMED, (0.5, 24, 12)), (0.5, False, 86400)),
    "a guess": (("avi", TIMED, (0, None, 12)), (12, False, 86400)),
    "no rate": (("avi", TIMED, (None, None, None)), (25, False, 86400)),
    "a raw stream states its rate": (("h264", RAW | 1, (30, 24, 12)), (24, True, 86400)),
    "it states an implausible rate": (("h264", RAW, (30, 1001, 12)), (12, True, 86400)),
    "it states none": (("h264", RAW, (30, None, 12)), (25, True, 86400)),
    "raw MJPEG": (("jpeg_pipe", TIMED, (30, None, 12)), (25, True, 86400)),
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("time_base", [Fraction(1, 4), None])
def test_timing_of_headers(case, time_base):
    (name, flags, (average, stated, guessed)), (rate, raw, max_step) = HEADERS[case]
    container = SimpleNamespace(format=SimpleNamespace(name=name, flags=flags))
    stream = SimpleNamespace(
        codec_context=SimpleNamespace(framerate=stated), average_rate=average, guessed_rate=guessed, time_base=time_base
    )
    timing = Timing.of(container, stream)
    assert (timing.rate, timing.raw, timing.max_step) == (rate, raw, max_step)
    assert timing.warning == (ASSUMED if raw and stated is None else "")
    frame = SimpleNamespace(dts=8, pts=12)
    assert timing.seconds(frame) == (8 if name == "avi" else 12) * (0.25 if time_base else 1)
    assert timing.seconds(SimpleNamespace(dts=None, pts=None)) is None


@pytest.mark.parametrize(("max_step", "limit"), [(math.inf, 10), (3, 3), (11, 10)])
def test_the_clock_of_a_timing(max_step, limit):
    timing = Timing(rate=20, time_base=1, by_decoding=False, max_step=10, raw=False, warning="")
    clock = timing.clock(start=2, max_step=max_step)
    times = [clock.tick(value) for value in (0, None, limit, 2 * limit + 0.1)]
    assert times == pytest.approx([2, 2.05, 2 + limit, 2 + 2 * limit])
    clock = timing.clock()
    assert [clock.tick(value) for value in (5, 15)] == [0, 10]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_packets_come_into_display_order_section_by_section(sizes, random):
    pts, dts, expected = [], [], []
    for start, size in enumerate(sizes):
        shown = [1000 * (len(sizes) - start) + 10 * index for index in range(size)]  # each section starts earlier
        expected += shown
        dts += [value - 20 for value in shown]
        pts += random.sample(shown, size)
    sections = split_sections(dts, 500)
    assert [section.stop - section.start for section in sections] == sizes
    assert [value for section in sections for value in display_order(pts[section])] == expected
    assert split_sections([None, *dts, None], 500)[0].start == 0
    assert len(split_sections([0, 10, 20, 521, 531], 500)) == 2
    assert split_sections([0, 0, None, 500, 1001], 500) == [slice(0, 4), slice(4, 5)]


def test_a_packet_without_a_timestamp_stays_behind_the_one_before_it():
    assert display_order([None, 30, None, 10, 20, None]) == [None, 10, 20, None, 30, None]


def write_recording(path: Path, kind: str, start: float) -> bytes:
    """The bytes of 20 barcode frames at 25 per second; the first one's timestamp is `start` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(FORMATS[kind].codec, rate=25, options=FORMATS[kind].options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 96, 64, "yuv420p", 1
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(barcode_frame(number), format="rgb24")
            frame.pts, frame.time_base = round(25 * start) + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def write_joined(path: Path, kind: str, starts: list[float]) -> Path:
    """Join recordings byte by byte."""
    parts = [write_recording(path.with_name(f"part{path.suffix}"), kind, start) for start in starts]
    header = 13 if path.suffix == ".flv" else 0  # bytes, which FFmpeg reads at the start only
    path.write_bytes(parts[0] + b"".join(part[header:] for part in parts[1:]))
    return path


WRAP = 2**33 / 90_000  # seconds after which the timestamps of MPEG streams start again
STARTS = {
    "one": [3.0],
    "same": [0.0, 0.0],
    "thrice": [0.0, 0.0, 0.0],
    "back": [300.0, 7.0],
    "ahead": [0.0, 60.0],
    "ahead and back": [5.0, 4000.0, 0.0],
    "wraparound": [WRAP - 1.5],
    "joined before the wraparound": [WRAP - 100, 0.0],
}
JOINABLE = {".ts": "h264-ts", ".mts": "mpeg2-mpg", ".m2ts": "hevc-mp4", ".mpg": "mpeg2-mpg", ".flv": "h264-mkv"}


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("suffix", JOINABLE)
def test_joined_recordings_have_one_time(suffix, starts, tmp_path):
    if suffix == ".flv" and starts.endswith("wraparound"):
        pytest.skip("FLV counts milliseconds")
    path = write_joined(tmp_path / f"a{suffix}", JOINABLE[suffix], STARTS[starts])
    num_frames = 20 * len(STARTS[starts])
    info = probe(path)
    assert (info.num_frames, info.damage, info.warnings) == (num_frames, "", ())
    assert info.fps == pytest.approx(25, rel=1e-3)
    assert info.duration == pytest.approx(num_frames / 25, rel=1e-3)
    np.testing.assert_allclose(info.times, np.arange(num_frames) / 25, atol=2e-3)
    numbers = list(range(20)) * len(STARTS[starts])
    times, read, _ = read_in_order(path)
    np.testing.assert_array_equal(times, info.times)
    assert read == numbers
    live, _ = collect(Source(path))
    assert [frame.time for frame in live] == info.times.tolist()
    assert frame_numbers(live) == numbers
    wanted = [0, 7, num_frames - 15, num_frames - 1]
    assert read_numbers(decode(path, wanted).frames) == [numbers[index] for index in wanted]


def test_a_wrong_rate_in_the_headers_does_not_matter(tmp_path):
    part = write_video(tmp_path / "part.ts", frames=20, pts=range(0, 80, 4), kind="h264-ts")  # its headers say 100
    path = tmp_path / "joined.ts"
    path.write_bytes(2 * part.read_bytes())
    np.testing.assert_allclose(probe(path).times, np.arange(40) / 25, atol=1e-4)


def test_a_joined_video_is_resized_at_its_times(tmp_path):
    path = write_joined(tmp_path / "a.ts", "h264-ts", [9.0, 0.0, 500.0])
    resize_video(path, tmp_path / "all.mp4", short_side=64)
    np.testing.assert_allclose(probe(tmp_path / "all.mp4").times, probe(path).times, atol=1e-4)
    resize_video(path, tmp_path / "slow.mp4", short_side=64, fps=5)
    info = probe(tmp_path / "slow.mp4")
    np.testing.assert_allclose(info.times, np.arange(12) / 5, atol=1e-4)
    assert read_numbers(decode(tmp_path / "slow.mp4", range(12)).frames) == [0, 5, 10, 15] * 3


def test_a_joined_flv_of_which_ffmpeg_reads_one_part_is_damaged(tmp_path):
    part = write_video(tmp_path / "part.flv", frames=20, kind="h264-mkv").read_bytes()
    (tmp_path / "joined.flv").write_bytes(part + part)
    assert probe(tmp_path / "part.flv").damage == ""
    assert probe(tmp_path / "joined.flv").damage.startswith("only the first ")


@pytest.mark.parametrize(("suffix", "believed"), [(".mp4", True), (".mkv", True), (".ts", False)])
def test_a_long_still_picture_is_believed_where_recordings_are_not_joined(suffix, believed, tmp_path):
    pts = [0, 4, 8, 12, 2012, 2016, 2020]  # 20 s without a frame
    path = write_video(tmp_path / f"still{suffix}", frames=7, kind="h264-ts", pts=pts)
    expected = np.array(pts) / 100 if believed else np.arange(7) / 25
    np.testing.assert_allclose(probe(path).times, expected, atol=2e-3)
    np.testing.assert_array_equal(read_in_order(path)[0], probe(path).times)
    assert [frame.time for frame in collect(Source(path))[0]] == probe(path).times.tolist()


# Streams without timestamps


def write_raw(path: Path, *, fps: int, codec: str = "libx265", stated: bool = True) -> Path:
    """Write 12 barcode frames as a raw stream, with or without their rate in its headers."""
    options = {"libx265": f"log-level=none:pools=1:bframes=0:vui-timing-info={int(stated)}"}.get(codec)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"x265-params": options} if options else {})
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.thread_count = 1
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "stated"),
    [
        ("a.h264", "libx264", True),
        ("a.hevc", "libx265", True),
        ("a.hevc", "libx265", False),
        ("a.m4v", "mpeg4", True),
        ("a.m2v", "mpeg2video", True),
    ],
)
@pytest.mark.parametrize("fps", [24, 50])
def test_a_raw_stream_has_the_rate_that_it_states(name, codec, stated, fps, tmp_path, monkeypatch):
    path = write_raw(tmp_path / name, fps=fps, codec=codec, stated=stated)
    rate, warnings = (fps, ()) if stated else (25, (ASSUMED,))
    info = probe(path)
    assert (info.num_frames, info.warnings) == (12, warnings)
    np.testing.assert_allclose(info.times, np.arange(12) / rate, atol=1e-6)
    times, numbers, reader = read_in_order(path)
    assert times == pytest.approx(info.times)
    assert (numbers, reader.warnings) == (list(range(12)), warnings)
    assert decode(path, [11]).warnings == warnings
    with standard_input(monkeypatch, path.read_bytes()):
        frames, events = collect(Source("-"))
    assert [frame.time for frame in frames] == pytest.approx(info.times)
    assert [event.message for event in events if event.kind == "rate"] == list(warnings)


def test_raw_mjpeg_through_a_pipe_has_an_assumed_rate(tmp_path, monkeypatch):
    path = write_raw(tmp_path / "a.mjpeg", fps=10, codec="mjpeg")
    with standard_input(monkeypatch, path.read_bytes()):
        frames, events = collect(Source("-"))
    assert frame_numbers(frames) == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(12) / 25)
    assert event_kinds(events) == ["opened", "rate"]
    assert events[1].message == ASSUMED
