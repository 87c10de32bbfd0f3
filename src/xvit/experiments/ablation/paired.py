"""Differences of accuracy between models that were tested on the same clips, with intervals."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Difference:
    """The difference of two models' top-1, in points, and the half width of its 95 % interval; None for one seed."""

    points: float
    margin: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.margin is not None and abs(self.points) > self.margin

    def __str__(self) -> str:
        margin = "" if self.margin is None else f" ± {self.margin:.1f}"
        return f"{self.points:+.1f}{margin}"


@dataclass(frozen=True)
class SeedNoise:
    """How much top-1 varies from seed to seed: the variance, pooled over the models, and its degrees of freedom."""

    variance: float
    degrees: int

    @classmethod
    def pool(cls, results: Iterable[np.ndarray]) -> "SeedNoise":
        """Pool the variances of models; each result is (seeds, clips) bool."""
        variances, degrees = [], 0
        for correct in results:
            if len(correct) > 1:
                variances.append(correct.mean(axis=1).var(ddof=1) * (len(correct) - 1))
                degrees += len(correct) - 1
        return cls(float(sum(variances)) / max(degrees, 1), degrees)


def paired_difference(lower: np.ndarray, higher: np.ndarray, noise: SeedNoise) -> Difference:
    """How much better `higher` is than `lower`, both (seeds, clips) bool, for the same seeds and clips.

    The variance of the difference is that of its mean over the clips, each of which both models have classified, plus
    that of the seeds, 2 s² / seeds with the pooled s². What clips and seeds cause together is in both terms, so the
    interval is rather too wide. Student's t has the degrees of freedom of s².
    """
    per_clip = higher.mean(axis=0) - lower.mean(axis=0)
    points = 100 * float(per_clip.mean())
    if not noise.degrees:
        return Difference(points, None)
    variance = per_clip.var(ddof=1) / len(per_clip) + 2 * noise.variance / len(lower)
    return Difference(points, 100 * student_t(noise.degrees) * math.sqrt(variance))


def student_t(degrees: int) -> float:
    """Student's t at 97.5 %, by the expansion of Cornish and Fisher: within 1 % of it from 5 degrees of freedom on."""
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))
