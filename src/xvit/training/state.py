"""What a saved state of a run holds beside the weights: its position, and the random number generators."""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import load

from xvit.utils import distributed
from xvit.utils.text import read_text


@dataclass
class TrainState:
    """What a run has done so far."""

    epoch: int = 0  # finished epochs, including their validation
    step: int = 0  # finished steps, including those of the current epoch
    world_size: int = field(default_factory=distributed.world_size)  # a step's clips depend on it
    seconds: float = 0.0  # wall time spent
    best_epoch: int = 0  # epoch of the best validation, counted from 1; 0 before the first
    best_metrics: dict[str, float] = field(default_factory=dict)  # its metrics
    data_hash: str = ""  # of what it was trained on; empty in a state of an earlier version


def read_train_state(path: Path) -> TrainState:
    """Read the `TrainState` of a saved state, which is named after its step. Raises some error if it is damaged."""
    state = TrainState(**json.loads(read_text(path)))
    counts = (state.epoch, state.step, state.world_size, state.best_epoch)
    numbers = [*counts, state.seconds, *state.best_metrics.values()]
    sound = (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and isinstance(state.data_hash, str)
        and path.parent.name == f"step_{state.step:07d}"
    )
    if not sound:
        raise ValueError(f"{path.name} has values that no run has")
    return state


def check_random_state(directory: Path) -> None:
    """Restore the random number generators of this process from a saved state. Raises some error if it is damaged.

    accelerate ignores such errors, after which the resumed weights would differ from those of an uninterrupted run.
    """
    states = load(directory / f"random_states_{distributed.rank()}.pkl")
    random.setstate(states["random_state"])
    np.random.set_state(states["numpy_random_seed"])
    torch.set_rng_state(states["torch_manual_seed"])
