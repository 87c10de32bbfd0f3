"""Frame sampling against naive loops and known cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvit.config import ClipSpec
from xvit.data.sampling import sample_indices
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
