"""How far scores can be trusted: their calibration error, and the measurement of a `Calibration`.

    score     0.0 ... 0.2 ... 0.4 ... 0.6 ... 0.8 ... 1.0     of the predicted class, in 15 bins of equal width
    accuracy  of the predictions in a bin; calibrated scores equal it

A calibration is measured with one view per video, as predictions, streams and timelines use by default.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xvit.utils.errors import XViTError

NUM_BINS = 15
_MAX_LOG_TEMPERATURE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often predictions are right, by the score of the predicted class, in `NUM_BINS` bins of equal width.

    Args:
        videos: number of videos in each bin.
        score: their mean score; None in a bin without videos.
        accuracy: the share of them that is right; None in a bin without videos.
    """

    videos: list[int]
    score: list[float | None]
    accuracy: list[float | None]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean of |score - accuracy| over the videos, bin by bin.

        Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, 2015.
        """
        bins = zip(self.videos, self.score, self.accuracy, strict=True)
        gaps = [n * abs(s - a) for n, s, a in bins if s is not None and a is not None]
        return sum(gaps) / sum(self.videos)


def measure_reliability(scores: Tensor, targets: Tensor) -> Reliability:
    """The reliability of scores (N, K) in [0, 1] for the true classes (N,). Bin i is (i / 15, (i + 1) / 15].

    Guo et al., On calibration of modern neural networks, 2017, section 2.
    """
    best, predicted = scores.double().max(dim=1)
    right = (predicted == targets).double()
    bins = ((best * NUM_BINS).ceil().long() - 1).clamp(0, NUM_BINS - 1)
    members = [bins == index for index in range(NUM_BINS)]
    return Reliability(
        videos=[int(inside.sum()) for inside in members],
        score=[best[inside].mean().item() if inside.any() else None for inside in members],
        accuracy=[right[inside].mean().item() if inside.any() else None for inside in members],
    )


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature T with the smallest mean of -log softmax(logits / T) of the true class.

    The loss is convex in 1 / T, so bisection of its slope finds the minimum. The true class has the probability
    (N + 1) / (N + 2) and not 1: if all videos are classified correctly, T would be 0 (Platt, Probabilistic outputs for
    support vector machines, 1999).

    Args:
        scores: (N, K), softmax of the logits.
        targets: (N,), the true classes.
    """
    logits = scores.double().clamp_min(torch.finfo(torch.float32).tiny).log()  # up to a number for each video
    N, K = logits.shape
    wanted = torch.full_like(logits, 1 / (N + 2) / max(K - 1, 1))
    wanted.scatter_(1, targets[:, None], (N + 1) / (N + 2))
    expected = (wanted * logits).sum(dim=1).mean()
    low, high = -_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE  # of log(1 / T)
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((logits * math.exp(middle)).softmax(dim=1) * logits).sum(dim=1).mean() - expected
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-middle)


def scale_scores(scores: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) from softmax(logits), both (N, K)."""
    tiny = torch.finfo(torch.float32).tiny
    return (scores.double().clamp_min(tiny).log() / temperature).softmax(dim=1).float()


def choose_threshold(values: Sequence[float], keep: float) -> float:
    """The highest threshold that at least the share `keep` of the values reaches; midway to the values that do not.

    Args:
        values: energies of videos whose class is right.
        keep: in (0, 1].

    Raises:
        XViTError: so few values that the share left out is less than one of them.
    """
    needed = 1 if keep == 1 else math.ceil(1 / (1 - keep) - 1e-6)
    if len(values) < needed:
        raise XViTError(
            f"{len(values)} correctly classified videos: expected at least {needed}, of which keep={keep:g} leaves out "
            "one; give more videos"
        )
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    kept = math.ceil(keep * len(ordered) - 1e-6)
    first = len(ordered) - kept  # the lowest value that is kept
    return float(ordered[max(first - 1, 0)] + ordered[first]) / 2
