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


def paired_interval(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """A 95 % interval for the difference of two shares that were observed on the same items: first minus second.

    Wald's interval after adding half an item to each of the four outcomes, which makes it hold for few items, too
    (Agresti and Min, Simple improved confidence intervals for comparing matched proportions, 2005).

    Args:
        pairs: for each item whether the first and whether the second succeeded.
    """
    first = sum(a and not b for a, b in pairs) + 0.5
    second = sum(b and not a for a, b in pairs) + 0.5
    total = len(pairs) + 2
    centre = (first - second) / total
    half = 1.959963984540054 * math.sqrt(first + second - (first - second) ** 2 / total) / total
    return max(centre - half, -1.0), min(centre + half, 1.0)
