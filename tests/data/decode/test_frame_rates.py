"""Frames at a given rate: those on display at its moments, whatever the rate of the video."""

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.barcode_videos import FORMATS, barcode_frame, read_in_order, write_video
from helpers.live_sources import collect, event_kinds, frame_numbers
from xvit.data.capture.source import Source
from xvit.data.decode.clock import choose_frames
from xvit.data.decode.sequential import FrameReader
from xvit.data.sampling import frames_at
from xvit.utils.errors import XViTError

INTERVAL = 0.04


def frame_times(rate: float, count: int, seed: int, jitter: float) -> np.ndarray:
    """Times of a rate, each moved by up to `jitter` of an interval, from 0 on."""
    moved = np.arange(count) + np.random.default_rng(seed).uniform(-jitter, jitter, count)
    return (moved - moved[0]) / rate


video_times = st.one_of(
    st.builds(
        frame_times,
        st.sampled_from([8, 12.5, 24000 / 1001, 25, 30000 / 1001, 50, 59.94]),
        st.integers(1, 150),
        st.integers(0, 2**32),
        st.sampled_from([0, 0.1, 0.45]),
    ),
    st.lists(st.one_of(st.floats(1e-4, 0.2), st.floats(1, 5)), max_size=25).map(lambda steps: np.cumsum([0, *steps])),
)
frame_rates = st.one_of(st.sampled_from([4.0, 8.0, 12.5, 25.0, 30.0, 60.0]), st.floats(0.2, 70))


def frames_on_display(times: list[float], stride: int, frame_rate: float) -> list[tuple[int, float]]:
    """The chosen frames and the moments, each found by looking through all frames."""
    interval = times[-1] / (len(times) - 1) if len(times) > 1 else INTERVAL
    early = max(1 / frame_rate - interval / 2, 1 / (2 * frame_rate))  # at most so long before its time a frame is shown
    chosen: list[tuple[int, float]] = []
    while len(chosen) * stride < max(round((times[-1] + interval - 0.001) * frame_rate), 1):
        moment = len(chosen) * (stride / frame_rate)
        shown = 0
        for index, (before, after) in enumerate(pairwise(times), 1):
            tolerance = min(0.001, (after - before) / 3)
            if moment >= max(before + tolerance, after - early - tolerance):
                shown = index
        chosen.append((shown, moment))
    return chosen


@given(video_times, st.integers(1, 5), frame_rates)
def test_frames_chosen_in_order_are_those_on_display(times, stride, frame_rate):
    timed = [(float(time), index) for index, time in enumerate(times)]
    interval = float(times[-1]) / (len(times) - 1) if len(times) > 1 else INTERVAL
    options = {"stride": stride, "frame_rate": frame_rate, "interval": interval}
    items = list(choose_frames(timed, end=float(times[-1]) + interval, **options))
    chosen = [(index, time) for index, time in items if time is not None]
    assert chosen == frames_on_display(times.tolist(), stride, frame_rate)
    moments = np.array([time for _, time in chosen])
    assert [index for index, _ in chosen] == frames_at(times, moments, frame_rate, interval=interval).tolist()
    assert sorted({index for index, _ in items}) == list(range(len(times)))  # each frame is chosen, or said not to be
    assert sum(time is None for _, time in items) == len(times) - len({index for index, _ in chosen})
    live = [(index, time) for index, time in choose_frames(timed, **options) if time is not None]
    assert live[: len(chosen)] == chosen  # where the end is not known, a moment close to it is not left out
    assert [time <= times[-1] + 1e-9 for _, time in live[len(chosen) :]] in ([], [True])


def test_without_a_frame_rate_every_stride_th_frame_keeps_its_time():
    timed = [(0.1 * index, index) for index in range(7)]
    items = list(choose_frames(timed, stride=3, frame_rate=None, interval=INTERVAL, first_index=2))
    assert items == [(index, time if index in (1, 4) else None) for time, index in timed]
    items = list(choose_frames(timed, stride=3, frame_rate=None))
    assert [index for index, time in items if time is not None] == [0, 3, 6]


@pytest.mark.parametrize("start", [0.0, 4.0, 4.25])
def test_moments_of_a_video_that_starts_later_count_from_0(start):
    """The interval of the video is measured."""
    timed = [(start + index / 8, index) for index in range(24)]
    items = choose_frames(timed, stride=3, frame_rate=6)
    moments = np.arange(math.ceil(2 * start) / 2, start + 3, 0.5)
    chosen = [(index, time) for index, time in items if time is not None]
    assert chosen == [(round(8 * (moment - start)), moment) for moment in moments]


def test_at_the_moment_at_which_a_frame_begins_it_is_on_display():
    times = np.array([0, 1 - 1 / 1024, 1 + 2 / 1024, 2])  # the third begins a third of a step after the second: at 1
    options = {"frame_rate": 1.0, "interval": 0.5}
    items = choose_frames(zip(times.tolist(), range(4), strict=True), stride=1, **options)
    chosen = [(index, time) for index, time in items if time is not None]
    assert chosen == [(0, 0.0), (2, 1.0), (3, 2.0)]
    assert frames_at(times, np.arange(3.0), **options).tolist() == [0, 2, 3]


def test_a_single_frame_of_unknown_interval_is_chosen_once():
    assert list(choose_frames([(2.0, "a")], stride=1, frame_rate=5)) == [("a", 2.0)]
    assert list(choose_frames([], stride=1, frame_rate=5)) == []


def test_a_moment_up_to_the_latest_frame_is_settled_at_once():
    received = []

    def live():
        for index in range(6):
            received.append(index)
            yield 0.1 * index, index

    for index, time in choose_frames(live(), stride=1, frame_rate=5, interval=0.1):
        if time is not None:
            assert received[-1] == index == round(10 * time)


def test_a_pause_is_filled_up_to_the_gap():
    timed = [(0.0, "a"), (30.0, "b"), (30.5, "c")]
    items = list(choose_frames(timed, stride=1, frame_rate=2, interval=0.5, max_gap=10))
    moments = [time for frame, time in items if frame == "a"]
    assert moments == [number / 2 for number in range(21)]
    assert next(item for item in items if item[0] != "a") == ("b", 30.0)


MOTION_FRAMES = 24  # at 8 per second
RATES = [8, 12.5, 25, 29.97, 50, 59.94, None]


def write_motion(path: Path, rate: float | None) -> Path:
    """Write the same motion at any rate, as `ffmpeg -r` does it; None for a varying one.

    Each frame of the motion begins at the nearest frame of the video, and is repeated up to the next one.
    """
    starts = np.floor(np.arange(MOTION_FRAMES + 1) * (rate or 50) / 8 + 0.5).astype(int)
    shown = np.repeat(np.arange(MOTION_FRAMES), np.diff(starts))
    keep = np.ones(len(shown), dtype=bool)
    if rate is None:  # repeated frames are left out, some at random
        keep = (np.diff(shown, prepend=-1) > 0) | (np.random.default_rng(0).random(len(shown)) < 0.4)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100, options=FORMATS["h264-mp4"].options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 96, 64, "yuv420p", 1
        stream.codec_context.time_base = Fraction(1, 90_000)
        for index in np.flatnonzero(keep):
            frame = av.VideoFrame.from_ndarray(barcode_frame(int(shown[index])), format="rgb24")
            frame.pts, frame.time_base = round(index / (rate or 50) * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("rate", RATES)
def test_the_same_motion_at_any_rate_gives_the_same_frames(rate, suffix, tmp_path):
    path = write_motion(tmp_path / f"motion{suffix}", rate)
    for stride in (1, 3):
        expected = list(range(0, MOTION_FRAMES, stride))
        times, numbers, reader = read_in_order(path, stride=stride, frame_rate=8.0)
        assert numbers == expected
        assert times == pytest.approx(np.array(expected) / 8)
        assert (reader.num_decoded, reader.warnings) == (reader.info.num_frames, ())
        source = Source(path)
        frames, events = collect(source, stride=stride, frame_rate=8.0)
        assert frame_numbers(frames) == expected
        assert [frame.time for frame in frames] == times.tolist()
        assert event_kinds(events) == ["opened"]
        assert (source.counts.read, source.counts.repeated) == (reader.info.num_frames, 0)
        assert source.counts.skipped == source.counts.read - len(expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_video_that_is_too_slow_is_reported_and_its_frames_repeated(stride, tmp_path):
    path = write_video(tmp_path / "slow.mp4", frames=12, fps=4)
    warning = f"4 frames per second, but the model was trained on {30 / stride:g}: frames are repeated"
    times, numbers, reader = read_in_order(path, stride=stride, frame_rate=30.0)
    assert times == pytest.approx(np.arange(0, 90, stride) / 30)
    assert numbers == frames_at(np.arange(12) / 4, times, 30, interval=0.25).tolist()
    assert reader.warnings == (warning,)
    source = Source(path)
    frames, events = collect(source, stride=stride, frame_rate=30.0)
    assert frame_numbers(frames) == [frame.index for frame in frames] == numbers
    assert [event.message for event in events if event.kind == "slow"] == [warning]
    assert (source.counts.read, source.counts.repeated) == (12, len(numbers) - 12)
    assert read_in_order(path, stride=8, frame_rate=32.0)[2].warnings == ()  # 4 frames per second are enough


def test_frame_rates_are_checked(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=2)
    for rate in (0, -8.0, 1e9, float("nan")):
        with pytest.raises(XViTError, match="frame_rate="):
            FrameReader(path, frame_rate=rate)
        with pytest.raises(XViTError, match="frame_rate="):
            collect(Source(path), frame_rate=rate)
