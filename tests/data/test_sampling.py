"""Frame sampling against naive loops and known cases."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvit.config import ClipSpec
from xvit.data.sampling import (
    _float32_linspace,
    count_frames,
    display_starts,
    frames_at,
    sample_frames,
    sample_indices,
    sampling_warning,
    slow_warning,
)
from xvit.utils.errors import XViTError

totals = st.integers(1, 2000)
lengths = st.integers(1, 64)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32)


def segment_indices(total_frames: int, num_frames: int, **options) -> np.ndarray:
    return sample_indices(ClipSpec(num_frames=num_frames), total_frames, **options)


def strided_indices(total_frames: int, num_frames: int, stride: int, **options) -> np.ndarray:
    spec = ClipSpec(num_frames=num_frames, sampling="strided", stride=stride)
    return sample_indices(spec, total_frames, **options)


def parts(total: int, num_frames: int) -> list[list[int]]:
    """The frames of each part, found by assigning each frame to its part."""
    frames: list[list[int]] = [[] for _ in range(num_frames)]
    for index in range(total):
        part = max(i for i in range(num_frames) if i * total // num_frames <= index)
        frames[part].append(index)
    return frames


@given(totals, lengths, st.one_of(st.none(), seeds), st.integers(1, 5))
def test_segment_indices_are_ascending_and_in_range(total, num_frames, seed, num_views):
    rng = None if seed is None else np.random.default_rng(seed)
    for view in range(num_views):
        indices = segment_indices(total, num_frames, rng=rng, view=view, num_views=num_views)
        assert indices.shape == (num_frames,)
        assert indices.dtype == np.int64
        assert 0 <= indices.min() <= indices.max() < total
        assert (np.diff(indices) >= (1 if total >= num_frames else 0)).all()


@given(st.integers(1, 120), st.integers(1, 16), seeds, st.integers(1, 5))
def test_segments_take_one_frame_from_each_part(total, num_frames, seed, num_views):
    total = max(total, num_frames)
    drawn = segment_indices(total, num_frames, rng=np.random.default_rng(seed))
    for part, index in zip(parts(total, num_frames), drawn, strict=True):
        assert index in part
    for view in range(num_views):
        fixed = segment_indices(total, num_frames, view=view, num_views=num_views)
        expected = [part[int(len(part) * (view + 0.5) / num_views + 1e-9)] for part in parts(total, num_frames)]
        assert fixed.tolist() == expected


def test_segments_can_draw_every_frame():
    rng = np.random.default_rng(0)
    reached = {int(i) for _ in range(200) for i in segment_indices(23, 4, rng=rng)}
    assert reached == set(range(23))
    fixed = {int(i) for view in range(6) for i in segment_indices(23, 4, view=view, num_views=6)}
    assert fixed == set(range(23))


def test_known_segment_indices():
    assert segment_indices(18, 4).tolist() == [2, 6, 11, 15]
    assert segment_indices(8, 8).tolist() == list(range(8))
    assert segment_indices(80, 8).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert segment_indices(80, 8, view=0, num_views=2).tolist() == [2, 12, 22, 32, 42, 52, 62, 72]
    assert segment_indices(80, 8, view=1, num_views=2).tolist() == [7, 17, 27, 37, 47, 57, 67, 77]
    assert segment_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert segment_indices(1, 4, rng=np.random.default_rng(0)).tolist() == [0, 0, 0, 0]


def test_segment_draws_are_uniform():
    rng = np.random.default_rng(0)
    counts = np.bincount([segment_indices(20, 2, rng=rng)[0] for _ in range(5000)], minlength=10)
    assert len(counts) == 10
    assert abs(counts - 500).max() < 100


@given(totals, lengths, strides, st.one_of(st.none(), seeds), st.integers(1, 5))
def test_strided_equals_a_naive_loop(total, num_frames, stride, seed, num_views):
    span = (num_frames - 1) * stride + 1
    for view in range(num_views):
        rng = None if seed is None else np.random.default_rng(seed)
        indices = strided_indices(total, num_frames, stride, rng=rng, view=view, num_views=num_views)
        start = int(indices[0])
        assert indices.tolist() == [min(start + i * stride, total - 1) for i in range(num_frames)]
        assert 0 <= start <= max(total - span, 0)
        if seed is None:
            last_start = max(total - span, 0)
            share = 0.5 if num_views == 1 else view / (num_views - 1)
            assert start == int(last_start * share + 1e-9)


def test_known_strided_indices():
    assert strided_indices(18, 4, 3).tolist() == [4, 7, 10, 13]
    assert strided_indices(18, 4, 3, view=0, num_views=2).tolist() == [0, 3, 6, 9]
    assert strided_indices(18, 4, 3, view=1, num_views=2).tolist() == [8, 11, 14, 17]
    assert strided_indices(18, 4, 3, view=1, num_views=3).tolist() == [4, 7, 10, 13]
    assert strided_indices(5, 4, 3).tolist() == [0, 3, 4, 4]
    starts = {int(strided_indices(18, 4, 3, rng=np.random.default_rng(seed))[0]) for seed in range(200)}
    assert starts == set(range(9))


def test_clip_spec_selects_the_sampling():
    segments = ClipSpec(num_frames=4)
    strided = ClipSpec(num_frames=4, sampling="strided", stride=3)
    assert sample_indices(segments, 18).tolist() == [2, 6, 11, 15]
    assert sample_indices(strided, 18).tolist() == [4, 7, 10, 13]
    assert sample_indices(strided, 18, view=1, num_views=2).tolist() == [8, 11, 14, 17]
    for spec in (segments, strided):
        one, two = (sample_indices(spec, 300, rng=np.random.default_rng(1)) for _ in range(2))
        assert one.tolist() == two.tolist()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"total_frames": 0}, "total_frames=0: expected"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"view": 2, "num_views": 2}, "view=2: expected"),
        ({"view": -1}, "view=-1"),
        ({"num_views": 0}, "num_views=0"),
    ],
)
def test_numbers_out_of_range(values, text):
    with pytest.raises(XViTError, match=text):
        strided_indices(**{"total_frames": 10, "num_frames": 4, "stride": 1} | values)
    if "stride" not in values:
        with pytest.raises(XViTError, match=text):
            segment_indices(**{"total_frames": 10, "num_frames": 4} | values)


RATES = (8.0, 12.5, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 120.0)
KINDS = ("segments", "strided", "pyslowfast_segments", "pyslowfast_strided")
rates = st.sampled_from(RATES)


def clip_spec(sampling: str, frame_rate: float | None, num_frames: int = 8, stride: int = 1) -> ClipSpec:
    return ClipSpec(num_frames=num_frames, sampling=sampling, stride=stride, frame_rate=frame_rate)


def frame_on_display(times: np.ndarray, second: float, frame_rate: float, interval: float) -> int:
    """The rule, by cases; a moment as close to a border as times are rounded counts as on it."""
    shown = 0
    for index in range(1, len(times)):
        gap = times[index] - times[index - 1]
        rounding = min(1e-3, gap / 3)
        at_most = 0.5 / frame_rate if interval >= 1 / frame_rate else 1 / frame_rate - 0.5 * interval
        if gap - rounding <= at_most + rounding:  # the first frame at or after the moment
            border = times[index - 1] + rounding
        else:  # the frame before stays on display for a while
            border = times[index] - at_most - rounding
        if second >= border:
            shown = index
    return shown


@given(st.lists(st.floats(0.0005, 3), min_size=1, max_size=40), rates, seeds)
def test_frames_at_varying_intervals_equal_a_naive_loop(intervals, frame_rate, seed):
    times = np.cumsum([0, *intervals])
    seconds = np.random.default_rng(seed).uniform(0, times[-1] + 0.5, size=20)
    interval = times[-1] / len(times)
    expected = [frame_on_display(times, second, frame_rate, interval) for second in seconds]
    assert frames_at(times, seconds, frame_rate, interval=interval).tolist() == expected


@given(st.lists(st.floats(0.004, 3), min_size=1, max_size=40), rates)
def test_a_frame_is_on_display_from_its_start(intervals, frame_rate):
    times = np.cumsum([0, *intervals])
    starts = display_starts(times, frame_rate, interval=times[-1] / len(times))
    expected = list(range(1, len(times)))
    assert frames_at(times, starts, frame_rate, interval=times[-1] / len(times)).tolist() == expected


@given(st.integers(10, 60), st.sampled_from(KINDS), st.sampled_from([16.0, 32.0]), seeds, st.integers(0, 2))
def test_segments_of_a_video_give_the_same_frames_wherever_they_start(total, kind, rate, seed, view):
    spec, rng = clip_spec(kind, 8.0), np.random.default_rng(seed)
    times = np.arange(total) / rate  # exact, as the shifts: sums of powers of two
    times = times[np.union1d([0], rng.choice(total, total // 2, replace=False))]
    first, *others = (
        sample_frames(spec, times + shift, start=shift, end=shift + total / rate, view=view, num_views=3).tolist()
        for shift in (0, 4, 256)
    )
    assert others == [first, first]


@given(st.integers(8, 100), st.sampled_from(KINDS), strides, st.integers(1, 3))
def test_views_of_timed_videos_are_those_of_counted_ones(total, kind, stride, num_views):
    timed, counted = (clip_spec(kind, frame_rate, stride=stride) for frame_rate in (8.0, None))
    for view in range(num_views):
        found = sample_frames(timed, np.arange(total) / 8, start=0, end=total / 8, view=view, num_views=num_views)
        assert found.tolist() == sample_indices(counted, total, view=view, num_views=num_views).tolist()
        assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("frames", "count"), [(0, 1), (0.2, 1), (1, 1), (1.4, 1), (1.5, 1), (1.6, 2), (2, 2), (2.5, 2), (2.6, 3), (3.5, 3)]
)
def test_half_a_frame_at_the_end_is_none(frames, count):
    assert count_frames(frames / 8, 8.0) == count


@given(st.integers(1, 500), st.sampled_from(KINDS), rates, lengths, strides, st.one_of(st.none(), seeds))
def test_equal_rates_give_the_same_indices(total, kind, rate, num_frames, stride, seed):
    times = np.arange(total) / rate
    timed, counted = (clip_spec(kind, frame_rate, num_frames, stride) for frame_rate in (rate, None))
    if timed.spans_video and total < num_frames:
        return  # such a video is read at a multiple of its rate
    first, second = (np.random.default_rng(seed) if seed is not None else None for _ in range(2))
    expected = sample_indices(counted, total, rng=second)
    assert sample_frames(timed, times, start=0, end=total / rate, rng=first).tolist() == expected.tolist()
    assert sample_frames(counted, times, start=0, end=total / rate).tolist() == sample_indices(counted, total).tolist()


def repeat_frames(num_frames: int, rate: float, new_rate: float, rounding: str) -> np.ndarray:
    """Which frame each frame of a video shows whose rate was raised by repeating frames.

    `rounding` is that of a frame's new start: to the nearest frame, or up, so that the frame on display at a frame's
    time is shown. Frames up to 1 ms before the start count as at it, because some containers round times.
    """
    starts = np.arange(num_frames + 1) * new_rate / rate
    starts = np.floor(starts + 0.5) if rounding == "nearest" else np.ceil(starts - 1e-3 * new_rate)
    return np.repeat(np.arange(num_frames), np.diff(starts).astype(int))


@given(
    st.integers(16, 80),
    st.sampled_from(KINDS),
    st.integers(1, 2),
    rates,
    st.sampled_from(["nearest", "up"]),
    st.integers(0, 2),
)
def test_a_video_of_any_rate_gives_the_same_frames(total, kind, stride, rate, rounding, view):
    spec = clip_spec(kind, 8.0, stride=stride)
    expected = sample_frames(spec, np.arange(total) / 8, start=0, end=total / 8, view=view, num_views=3)
    shown = repeat_frames(total, 8.0, rate, rounding)
    times, end = np.arange(len(shown)) / rate, len(shown) / rate
    if rounding == "up" and rate < 16:
        return  # the video may become longer by more than half of 1/8 s: it counts as one frame longer
    assert shown[sample_frames(spec, times, start=0, end=end, view=view, num_views=3)].tolist() == expected.tolist()
    if rate < 24:
        return  # frames of a varying rate may be late by more than half of 1/8 s
    keep = np.flatnonzero(np.diff(shown, prepend=-1))  # a varying rate: repeated frames are left out, some at random
    keep = np.union1d(keep, np.random.default_rng(total).integers(0, len(shown), size=len(shown) // 3))
    indices = sample_frames(spec, times[keep], start=0, end=end, view=view, num_views=3)
    assert shown[keep][indices].tolist() == expected.tolist()


@given(st.sampled_from(RATES[1:]), st.integers(1, 3))
def test_frames_of_a_moving_scene_are_less_than_a_frame_late(rate, stride):
    spec = clip_spec("strided", 8.0, stride=stride)
    times = np.arange(round(6 * rate)) / rate
    start = (count_frames(6, 8.0) - 7 * stride - 1) // 2 / 8
    late = times[sample_frames(spec, times, start=0, end=6.0)] - (start + np.arange(8) * stride / 8)
    assert late.min() >= -1e-3
    assert late.max() < 1 / rate


@given(st.floats(-0.45, 0.45), seeds)
def test_unsteady_times_do_not_change_the_frames(share, seed):
    times = (np.arange(30) + share * np.random.default_rng(seed).uniform(-1, 1, size=30)) / 25
    assert frames_at(times, np.arange(30) / 25, 25.0, interval=0.04).tolist() == list(range(30))


def test_a_still_picture_stays_on_display():
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1])  # a screen recording: no frames while nothing changes
    assert frames_at(times, np.array([0.0, 0.12, 0.3, 2.7, 4.9, 4.99, 6.0]), 8.0, interval=1.02).tolist() == [
        0,
        1,
        2,
        2,
        2,
        3,
        4,
    ]


def test_a_short_video_keeps_its_frames():
    spec = clip_spec("segments", 8.0)  # 0.5 s hold 4 frames at 8 per second, but 12 at 24
    indices = sample_frames(spec, np.arange(12) / 24, start=0, end=0.5)
    assert len(set(indices.tolist())) == 8
    # 3 frames at 8 per second are 9 at 24, of which each of 8 parts has its middle one; the last part has two frames.
    assert sample_frames(spec, np.arange(9) / 24, start=0, end=0.375).tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert sample_frames(spec, np.zeros(1), start=0, end=0.04).tolist() == [0] * 8


@given(st.integers(1, 700), lengths, strides, st.integers(1, 5), seeds)
def test_strided_indices_of_pyslowfast(total, num_frames, stride, num_views, seed):
    spec, clip_size = clip_spec("pyslowfast_strided", None, num_frames, stride), num_frames * stride
    latest = max(total - clip_size, 0)
    starts = {view: latest * view / num_views for view in range(num_views)}
    drawn = np.random.default_rng(seed).uniform(0, latest)
    found = {view: sample_indices(spec, total, view=view, num_views=num_views) for view in starts}
    starts[-1], found[-1] = drawn, sample_indices(spec, total, rng=np.random.default_rng(seed))
    for view, start in starts.items():
        spread = torch.linspace(start, start + clip_size - 1, num_frames)
        assert found[view].tolist() == spread.clamp(0, total - 1).long().tolist()


@given(st.integers(0, 30000), st.integers(0, 600), lengths)
def test_linspace_equals_that_of_torch(sixtieths, length, num):
    start = sixtieths / 60
    expected = torch.linspace(start, start + length, num)
    assert _float32_linspace(start, start + length, num).tolist() == expected.tolist()


@given(totals, lengths, seeds)
def test_segment_indices_of_pyslowfast(total, num_frames, seed):
    spec, size = clip_spec("pyslowfast_segments", None, num_frames), (total - 1) / num_frames
    bounds = [(round(size * i), round(size * (i + 1))) for i in range(num_frames)]
    views = [sample_indices(spec, total, view=view, num_views=3).tolist() for view in range(3)]
    assert sample_indices(spec, total).dtype == np.int64
    assert views == [[(a + b) // 2 for a, b in bounds], [a for a, _ in bounds], [b for _, b in bounds]]
    drawn = sample_indices(spec, total, rng=np.random.default_rng(seed))
    assert all(a <= index <= b for (a, b), index in zip(bounds, drawn, strict=True))
    with pytest.raises(XViTError, match="num_views=4: expected"):
        sample_indices(spec, total, num_views=4)


def test_pyslowfast_reaches_every_frame_of_a_segment():
    spec = clip_spec("pyslowfast_segments", None, 2)
    draws = np.stack([sample_indices(spec, 9, rng=np.random.default_rng(seed)) for seed in range(100)])
    assert [sorted(set(column.tolist())) for column in draws.T] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("kind", "stride", "frame_rate", "num_frames", "fps", "text"),
    [
        ("strided", 1, 8.0, 40, 4.0, "4 frames per second, but the model was trained on 8: frames are repeated"),
        ("strided", 2, 8.0, 40, 4.0, ""),
        ("strided", 1, 30.0, 40, 29.97, ""),
        ("strided", 1, None, 40, 4.0, ""),
        ("segments", 1, 8.0, 40, 4.0, ""),
        ("segments", 3, 8.0, 40, 2.0, ""),
        ("segments", 1, 8.0, 8, 8.0, ""),
        ("segments", 1, 8.0, 7, 25.0, "7 frames, fewer than the 8 of a clip: frames are repeated"),
        ("pyslowfast_strided", 7, 64.0, 400, 7.0, "7 frames per second, but the model was trained on 8:"),
    ],
)
def test_repeated_frames_are_reported(kind, stride, frame_rate, num_frames, fps, text):
    warning = sampling_warning(clip_spec(kind, frame_rate, stride=stride), num_frames, fps)
    assert warning.startswith(text)
    assert bool(warning) == bool(text)


def test_a_tenth_slower_is_not_reported():
    assert slow_warning(9.0, 10.0) == ""
    assert slow_warning(8.99, 10.0).startswith("8.99 frames per second, but the model was trained on 10:")


@pytest.mark.parametrize("frame_rate", [-1.0, 1e-4, 1e4, float("nan"), True])
def test_frame_rates_out_of_range(frame_rate):
    with pytest.raises(XViTError, match="frame_rate="):
        ClipSpec(frame_rate=frame_rate)
