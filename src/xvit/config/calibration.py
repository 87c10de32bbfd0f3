"""The calibration of a trained model: what its scores mean, and when a video shows none of its classes."""

import re
from dataclasses import dataclass

import numpy as np

from xvit.utils.errors import XViTError, check_range


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration of one task, which `xvit calibrate` measures on labelled videos.

    Args:
        temperature: T > 0; scores are softmax(logits / T), so that a score of 0.8 is right 8 times in 10 (Guo et al.,
            On calibration of modern neural networks, 2017).
        energy_threshold: a clip whose energy is lower shows none of the classes; see `energies`.
        keep: share of the correctly classified videos that the threshold was to keep, in (0, 1].
        videos: number of videos of the measurement.
        weights_hash: of the weights; the calibration of other weights is not used.

    Raises:
        XViTError: a number out of its range, a hash that is none.
    """

    temperature: float
    energy_threshold: float
    keep: float
    videos: int
    weights_hash: str

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 1e-3, 1e3)
        check_range("energy_threshold", self.energy_threshold, -1e6, 1e6)
        check_range("keep", self.keep, 1e-3, 1)
        check_range("videos", self.videos, 1)
        if not re.fullmatch("[0-9a-f]{16}", self.weights_hash):
            raise XViTError(f"weights_hash={self.weights_hash!r:.80}: expected 16 hexadecimal digits")

    def margins(self, logits: np.ndarray) -> np.ndarray:
        """How far the energy of logits (..., classes) is above the threshold: (...,), float64; below 0, no class."""
        return energies(logits) - self.energy_threshold


def energies(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits - their mean))) of logits (..., classes): (...,), float64. High where a class stands out.

    Liu et al., Energy-based out-of-distribution detection, 2020, with the opposite sign, and without the mean: a number
    that is added to all logits changes neither the softmax nor the training loss, so it says nothing about the clip.
    """
    values = np.asarray(logits, dtype=np.float64)
    result: np.ndarray = np.logaddexp.reduce(values - values.mean(axis=-1, keepdims=True), axis=-1)
    return result
