"""Reading PNG files of plots."""

import matplotlib.image
import numpy as np


def read_png(path) -> np.ndarray:
    """A PNG as (H, W, 3) in [0, 1]."""
    return matplotlib.image.imread(path)[..., :3]


def color_fraction(image: np.ndarray, color: str) -> float:
    """The fraction of the pixels with exactly this colour."""
    expected = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.rint(image * 255) == expected).all(axis=-1).mean())
