"""Finding segments in scores: invariants, naive loops, and cases worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.timeline.segments import (
    Segment,
    cell_edges,
    default_lengths,
    find_segments,
    hysteresis,
    moving_average,
    still_stretches,
)
from xvit.utils.errors import XViTError

LABELS = ["a", "b", "c"]


@st.composite
def score_arrays(draw):
    """Times, scores and the duration of a video."""
    number, rng = draw(st.integers(1, 40)), np.random.default_rng(draw(st.integers(0, 10**6)))
    scores = rng.choice([0.0, 0.2, 0.4, 0.5, 0.6, 0.9], size=(number, 3))
    times = np.cumsum(rng.choice([0.25, 0.5, 1.0], size=number)) - 0.25
    return times, scores, float(times[-1] + draw(st.sampled_from([0.1, 2.0])))


OPTIONS = st.fixed_dictionaries(
    {
        "smooth": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "threshold": st.sampled_from([0.3, 0.5, 0.8]),
        "low_threshold": st.sampled_from([None, 0.0, 0.3]),
        "min_length": st.sampled_from([0.0, 0.6, 2.0]),
    }
)


@settings(max_examples=200, deadline=None)
@given(video=score_arrays(), options=OPTIONS)
def test_segments_are_ordered_disjoint_and_long_enough(video, options):
    times, scores, duration = video
    segments = find_segments(times, scores, LABELS, duration=duration, **options)
    assert all(0 <= s.start < s.end <= duration for s in segments)
    assert all(a.end <= b.start for a, b in itertools.pairwise(segments))
    assert all(a.label != b.label for a, b in itertools.pairwise(segments) if a.end == b.start)
    assert all(s.end - s.start >= options["min_length"] for s in segments)
    assert all(0 <= s.score <= 1 for s in segments)
    # Scores made from the segments give the same segments again: the minimum length removes nothing more.
    one_hot = np.zeros_like(scores)
    for segment in segments:
        one_hot[(segment.start <= times) & (times < segment.end), LABELS.index(segment.label)] = 1
    options |= {"smooth": 0.0, "low_threshold": None}
    repeated = find_segments(times, one_hot, LABELS, duration=duration, **options)
    assert [(s.start, s.end, s.label) for s in repeated] == [(s.start, s.end, s.label) for s in segments]


@settings(max_examples=100, deadline=None)
@given(video=score_arrays(), seconds=st.sampled_from([0.0, 0.5, 1.0, 2.5]))
def test_the_moving_average_is_the_mean_of_the_scores_within_reach(video, seconds):
    times, scores, _ = video
    near = [[j for j in range(len(times)) if abs(times[j] - t) <= seconds / 2] for t in times]
    expected = [scores[indices].mean(axis=0) for indices in near]
    np.testing.assert_allclose(moving_average(times, scores, seconds), expected, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(video=score_arrays(), options=OPTIONS, ignore=st.sets(st.sampled_from(LABELS)))
def test_ignored_classes_compete_but_have_no_segments(video, options, ignore):
    times, scores, duration = video
    everything = find_segments(times, scores, LABELS, duration=duration, **options)
    some = find_segments(times, scores, LABELS, duration=duration, ignore=ignore, **options)
    assert some == [segment for segment in everything if segment.label not in ignore]


@settings(max_examples=150, deadline=None)
@given(video=score_arrays(), options=OPTIONS, seed=st.integers(0, 10**6))
def test_nothing_happens_where_nothing_moves(video, options, seed):
    times, scores, duration = video
    moving = np.random.default_rng(seed).random(len(times)) < 0.5
    edges = cell_edges(times, duration)
    # A naive list of the stretches: neighbouring cells without motion, joined.
    stretches = []
    for start, end, is_moving in zip(edges[:-1], edges[1:], moving, strict=True):
        if not is_moving and stretches and stretches[-1][1] == start:
            stretches[-1] = (stretches[-1][0], end)
        elif not is_moving:
            stretches.append((start, end))
    assert still_stretches(times, moving, duration) == stretches
    segments = find_segments(times, scores, LABELS, duration=duration, moving=moving, **options)
    assert all(segment.end <= start or segment.start >= end for segment in segments for start, end in stretches)
    assert all(0 <= segment.score <= 1 for segment in segments)
    # Scores there have no influence, not even on smoothed scores nearby.
    other = np.where(moving[:, None], scores, np.eye(3)[0])
    assert find_segments(times, other, LABELS, duration=duration, moving=moving, **options) == segments
    everywhere = np.ones_like(moving)
    expected = find_segments(times, scores, LABELS, duration=duration, **options)
    assert find_segments(times, scores, LABELS, duration=duration, moving=everywhere, **options) == expected


def test_the_default_lengths_are_fractions_of_a_clip():
    one, two = default_lengths(1.0), default_lengths(2.0)
    assert one.keys() == two.keys() == {"smooth", "min_length"}
    assert all(0 < one[name] < 1 and two[name] == 2 * one[name] for name in one)


def test_hysteresis_by_hand():
    #                 none      a begins    a stays    b best, a stays  b begins   b stays     b ends
    rows = np.array([[0.4, 0.1], [0.6, 0.2], [0.3, 0.1], [0.3, 0.45], [0.1, 0.7], [0.4, 0.3], [0.2, 0.2]])
    for low_threshold in (0.25, 0.3):
        classes = hysteresis(rows, threshold=0.5, low_threshold=low_threshold)
        assert classes.tolist() == [-1, 0, 0, 0, 1, 1, -1]
    assert hysteresis(rows, threshold=0.5, low_threshold=0.5).tolist() == [-1, 0, -1, -1, 1, -1, -1]


def test_segments_by_hand():
    times = np.arange(8) + 0.5
    one_hot = np.eye(3)[[0, 0, 0, 1, 0, 0, 2, 1]]
    assert cell_edges(times, 8.0).tolist() == list(range(9))
    segments = find_segments(times, one_hot, LABELS, duration=8.0)
    assert [(s.start, s.end, s.label) for s in segments] == [
        (0, 3, "a"), (3, 4, "b"), (4, 6, "a"), (6, 7, "c"), (7, 8, "b"),
    ]  # fmt: skip
    assert find_segments(times, one_hot, LABELS, duration=8.0, min_length=1.0) == segments
    # The first b is merged into a; c and the last b become background.
    [only] = find_segments(times, one_hot, LABELS, duration=8.0, min_length=1.5)
    assert (only.start, only.end, only.label, only.score) == (0, 6, "a", pytest.approx(5 / 6))
    assert find_segments(times, one_hot * 0.4, LABELS, duration=8.0) == []
    # The shortest, c, is merged into b first, which is long enough then.
    halves, one_hot_halves = np.arange(14) / 2 + 0.25, np.eye(3)[[0] * 6 + [1] * 3 + [2] * 2 + [1] * 3]
    segments = find_segments(halves, one_hot_halves, LABELS, duration=7.0, min_length=2)
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 3, "a"), (3, 7, "b")]
    with pytest.raises(XViTError, match=r"moving of shape \(3,\): expected \(8,\)"):
        find_segments(times, one_hot, LABELS, duration=8.0, moving=np.ones(3, dtype=bool))
    with pytest.raises(XViTError, match=r"low_threshold=0\.6"):
        find_segments(times, one_hot, LABELS, duration=8.0, low_threshold=0.6)
    with pytest.raises(XViTError, match="duration=7"):
        find_segments(times, one_hot, LABELS, duration=7)
    with pytest.raises(XViTError, match="expected 0 <= start < end"):
        Segment(start=2, end=1, label="a")
