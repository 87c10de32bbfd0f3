"""The ratio of two models' times, with its interval and the rounds that are far from the others.

Interval: the ratio is the median of the ratios within each round, and its interval is distribution-free; see
`median_interval`. A benchmark looks at the intervals after each round and stops once they are narrow. This favours
intervals that are narrow by chance: computed at 95 %, they would hold in only 92 to 96 % of all benchmarks. They are
therefore computed at 97.5 %, and hold in 95 to 98 % (simulated in tests/experiments/test_benchmark_ratios.py).

Outlier: a round whose ratio is far out by Tukey's rule; see `far_out`. It stays in the median and in the interval,
which hardly depend on it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from xvit.utils.intervals import far_out, median_interval

CONFIDENCE = 0.975  # of a single look, for 95 % after many
MIN_ROUNDS = 7  # with fewer there is no such interval


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times.

    Args:
        median: of the ratios within each round.
        low, high: the ends of its interval; None if there are too few rounds for one.
        outliers: indices of the rounds that are far from the others.
    """

    median: float
    low: float | None
    high: float | None
    outliers: list[int]

    @property
    def margin(self) -> float:
        """The larger distance of the interval's ends from the median, in percent of it; infinite without interval."""
        if self.low is None or self.high is None:
            return float("inf")
        return 100 * max(self.high - self.median, self.median - self.low) / self.median


def ratio_of(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """The ratio of a model's seconds to those of another model in the same rounds, at least one."""
    ratios = [first / second for first, second in zip(seconds, reference, strict=True)]
    low, high = median_interval(ratios, CONFIDENCE) or (None, None)
    outliers = [index for index, is_outlier in enumerate(far_out(ratios)) if is_outlier]
    return Ratio(median=statistics.median(ratios), low=low, high=high, outliers=outliers)
