"""Models with a calibration, and the naive form of what it does."""

import math

import numpy as np

from xvit.checkpoint.weights import weights_hash
from xvit.config import Calibration
from xvit.models.xvit import XViT


def with_calibration(model: XViT, *, temperature: float = 2.0, threshold: float = 0.0) -> XViT:
    """Give each task of the model this calibration; returns the model."""
    found = weights_hash(model.state_dict())
    settings = {"temperature": temperature, "energy_threshold": threshold, "keep": 0.9, "videos": 50}
    model.calibration = {task: Calibration(weights_hash=found, **settings) for task in model.config.tasks}
    return model


def naive_energy(logits) -> float:
    """The energy of the logits of one clip."""
    values = np.asarray(logits, dtype=np.float64).tolist()
    mean = sum(values) / len(values)
    return math.log(sum(math.exp(value - mean) for value in values))
