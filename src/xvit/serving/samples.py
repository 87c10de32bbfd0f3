"""A few made videos, for people who want to see a model at work before they send one of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xvit.data.synthetic.dataset import encode_video
from xvit.data.synthetic.motion import CLASSES, render_clip
from xvit.serving.models import ServedModel

_FPS = 24.0  # smooth to look at
_SEED = 15
_SHORT = ("moving_left", "receding", "hiding_behind", "two_shapes_meeting")
_LONG = ("moving_up", "approaching", "moving_right", "disappearing", "two_shapes_parting", "moving_down")


@dataclass(frozen=True)
class Sample:
    """A video that the service offers.

    Args:
        name: in its address.
        path: of the file.
        label: its class; of a long video, in words, what it shows.
    """

    name: str
    path: Path
    label: str


def write_samples(folder: Path, models: Sequence[ServedModel]) -> list[Sample]:
    """Write the samples into a folder: videos of the built-in data set, if a model knows its classes; else none."""
    if not any(set(CLASSES) <= set(names) for model in models for names in model.tasks.values()):
        return []
    samples = [_write(folder, label, [label], label) for label in _SHORT]
    return [*samples, _write(folder, "long", _LONG, f"{len(_LONG)} classes, one after the other")]


def _write(folder: Path, name: str, labels: Sequence[str], text: str) -> Sample:
    clips = [render_clip(label, np.random.default_rng([_SEED, CLASSES.index(label)]), fps=_FPS) for label in labels]
    path = folder / f"{name}.mp4"
    encode_video(np.concatenate(clips), path, fps=_FPS)
    return Sample(name, path, text)
