"""Intervals of the median, and values far from the others."""

import math
from itertools import product

import numpy as np
import pytest

from xvit.utils.intervals import far_out, median_interval


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.975, 0.99])
@pytest.mark.parametrize("count", [*range(1, 13)])
def test_the_interval_is_the_narrowest_that_is_sure_enough(count, confidence):
    """Each value is above or below the median with equal probability: all cases are counted."""
    below = [sum(sides) for sides in product((0, 1), repeat=count)]  # of how many values the median is above

    def probability(rank: int) -> float:
        """That at least `rank` values are below the median and as many above it."""
        return sum(rank <= number <= count - rank for number in below) / 2**count

    ranks = [rank for rank in range(1, count // 2 + 1) if probability(rank) >= confidence]
    values = [float(3 * i % 13) for i in range(count)]  # in no order
    expected = (sorted(values)[ranks[-1] - 1], sorted(values)[-ranks[-1]]) if ranks else None
    assert median_interval(values, confidence) == expected


def test_the_interval_of_many_values():
    """Close to the normal approximation: ranks n/2 - 0.98 sqrt(n) and n/2 + 0.98 sqrt(n)."""
    low, high = median_interval(list(map(float, range(10_000))))
    assert abs(low - (5000 - 0.98 * math.sqrt(10_000))) < 3
    assert low + high == 9999


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_the_interval_contains_the_median_as_often_as_it_says(draw):
    rng = np.random.default_rng(0)
    median = {"normal": 0, "exponential": math.log(2), "standard_cauchy": 0}[draw]
    samples = getattr(rng, draw)(size=(2000, 17)).tolist()
    intervals = [median_interval(values) for values in samples]
    hits = sum(low <= median <= high for low, high in intervals)
    assert 0.94 < hits / 2000 < 0.965  # exactly 95.1 % for 17 values


def test_values_far_from_the_others():
    values = [10.0, 11.0, 9.0, 10.5, 9.5, 10.2, 9.8, 10.0]
    assert not any(far_out(values))
    first, third = np.percentile([*values, 20.0], (25, 75))
    limit = third + 3 * (third - first)
    assert far_out([*values, 20.0]) == [False] * 8 + [True]
    assert far_out([*values, -20.0]) == [False] * 8 + [True]
    assert limit < 20
    assert far_out([1.0]) == far_out([2.0, 2.0, 2.0])[:1] == [False]
