"""What repeated measurements say: an interval for their median, and the values that are far from the others."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """An interval that contains the median of the values' distribution with at least this probability.

    Its ends are two of the values themselves, the k-th smallest and the k-th largest (order statistics). It holds for
    any continuous distribution, if the values are independent.

    Returns:
        The lower and the upper end; None if there are too few values: for 95 % fewer than 6.
    """
    rank = _rank(len(values), confidence)
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[-rank]


@lru_cache
def _rank(count: int, confidence: float) -> int:
    """The largest k for which the median lies between the k-th smallest and the k-th largest value often enough.

    Fewer than k of the values are below the median with the probability P(Binomial(count, 1/2) < k), and as often fewer
    than k are above it.
    """
    ways, rank = 1, 0  # ways in which at most `rank` of the values are below the median
    while 2 * ways / 2**count <= 1 - confidence:  # of integers, which may exceed any float
        rank += 1
        ways += math.comb(count, rank)
    return rank


def far_out(values: Sequence[float]) -> list[bool]:
    """Which values are more than three interquartile ranges below the first or above the third quartile.

    These are Tukey's "far out" values: about 1 in 400,000 of a normal distribution.
    """
    first, third = np.percentile(values, (25, 75))
    low, high = first - 3 * (third - first), third + 3 * (third - first)
    return [not low <= value <= high for value in values]
