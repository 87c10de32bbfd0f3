"""Average precision of multi-label scores against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvit.config import SINGLE_TASK
from xvit.data.annotations.samples import Sample
from xvit.evaluation import ScoredVideos, compute_metrics


def naive_precision(scores, positive) -> float:
    """Mean, over the videos of the class, of the share of its videos among those that score at least as high."""
    thresholds = [score for score, true in zip(scores, positive, strict=True) if true]
    precisions = []
    for threshold in thresholds:
        above = [true for score, true in zip(scores, positive, strict=True) if score >= threshold]
        precisions.append(sum(above) / len(above))
    return sum(precisions) / len(thresholds)


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 4))
def test_average_precision(seed, videos, classes):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, (videos, classes)) / 7  # some videos score the same
    positive = rng.random((videos, classes)) < 0.4
    names = [f"c{k}" for k in range(classes)]
    result = compute_metrics(
        ScoredVideos(
            samples=[
                Sample(path="v", label=tuple(np.flatnonzero(row).tolist()), id=str(i)) for i, row in enumerate(positive)
            ],
            scores={SINGLE_TASK: torch.tensor(scores)},
            class_names=names,
            failures=[("bad", "bad.mp4", "no video")],
            temporal_views=1,
            spatial_views=1,
            seconds=1.0,
        )
    )
    expected = [naive_precision(scores[:, k], positive[:, k]) if positive[:, k].any() else None for k in range(classes)]
    for name, value in zip(names, expected, strict=True):
        assert result.average_precision[name] == (None if value is None else pytest.approx(value, abs=1e-6))
    measured = [value for value in expected if value is not None]
    assert result.mean_average_precision == pytest.approx(sum(measured) / len(measured) if measured else 0, abs=1e-6)
    assert (result.expected, result.videos) == (videos + 1, videos)
    assert [sample["ground_truth"] for sample in result.samples] == [
        [name for name, true in zip(names, row, strict=True) if true] for row in positive
    ]
