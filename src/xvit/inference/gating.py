"""What is no event: classes that are ignored, and times at which nothing moves.

A frozen picture, a blank wall or a camera that is off shows nothing that could happen, but a model without a class for
it gives one of its classes a high score. `MotionMeter` tells such times from slow movements:

    view        S x S pixels, as the model sees it, in grey
    cells       its averages over squares of 1/24 of the width, at least 4 pixels: single pixels are noisy
    change      of a cell: from its lowest to its highest value in the frames of one clip
    motion      the largest change of all cells, less what the noise of the sensor explains; in grey levels of 255
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np

from xvit.config import as_task_dict
from xvit.utils.errors import XViTError, did_you_mean

BACKGROUND_CLASS = "background"  # ignored unless the user says otherwise
MOTION_THRESHOLD = 5.0  # grey levels: above still pictures with the noise of a sensor, below slow fades
_MAX_CELLS = 24  # along the width
_MIN_CELL = 4  # pixels
_MAX_NOISE = 12.0  # grey levels; what changes more from frame to frame is no sensor noise
_NOISE_RANGE = 6.0  # of averages of independent pixels: largest change among hundreds of cells, in standard deviations
_SIGMA_PER_MEDIAN = 1.4826 / 8**0.5  # standard deviation of a pixel per median of the differences of 8 pixels


class MotionMeter:
    """Measures how much the latest frames of a video differ, frame by frame.

    Args:
        num_frames: T, the number of frames that are compared: those of a clip.
    """

    def __init__(self, num_frames: int) -> None:
        self._needed = max(num_frames, 2)
        self._cells: deque[np.ndarray] = deque(maxlen=num_frames)
        self._noise: deque[float] = deque(maxlen=num_frames - 1)  # between each two of these frames
        self._previous: np.ndarray | None = None

    def push(self, views: np.ndarray) -> list[float]:
        """Add frames (n, C, S, S), uint8.

        Returns:
            The motion at each frame: in it and the T - 1 before, in grey levels; infinite while there are fewer
            frames, or if T is 1, because these do not show that nothing moves.
        """
        motion = []
        for image in views.mean(axis=1, dtype=np.float32):  # (S, S), grey
            size = len(image)
            average = _averaging_matrix(size)  # (cells, S)
            if self._previous is not None:
                self._noise.append(_pixel_noise(image - self._previous))
            self._previous = image
            self._cells.append((average @ image @ average.T).ravel())
            noise = max(self._noise, default=0.0) / (size / len(average))  # of a cell: the average of its pixels
            change = float(np.ptp(np.stack(self._cells), axis=0).max()) - _NOISE_RANGE * noise
            motion.append(max(change, 0.0) if len(self._cells) >= self._needed else np.inf)
        return motion


@cache
def _averaging_matrix(size: int) -> np.ndarray:
    """The weights (cells, S) of `size` pixels in the averages of cells; cells overlap if their width is no integer."""
    count = min(_MAX_CELLS, max(size // _MIN_CELL, 1))
    weights = np.zeros((count, size), np.float32)
    for cell, row in enumerate(weights):
        start, stop = cell * size // count, -(-(cell + 1) * size // count)
        row[start:stop] = 1 / (stop - start)
    return weights


def _pixel_noise(difference: np.ndarray) -> float:
    """The standard deviation of a pixel's noise, from the difference (S, S) of two frames.

    Neighbouring pixels have independent noise, but move alike: differences along both axes leave the noise only.
    """
    if len(difference) < 2:
        return 0.0
    mixed = np.diff(np.diff(difference, axis=0), axis=1)
    return min(_SIGMA_PER_MEDIAN * float(np.median(np.abs(mixed))), _MAX_NOISE)


def resolve_ignored(
    class_names: Sequence[str] | Mapping[str, Sequence[str]], ignore: Iterable[str] | None
) -> tuple[str, ...]:
    """The classes of a model that are no events.

    Args:
        class_names: of the model; a dict with several tasks.
        ignore: names of classes; None for the class "background", if the model has one.

    Raises:
        XViTError: the model has no such class.
    """
    known = list(dict.fromkeys(name for names in as_task_dict(class_names).values() for name in names))
    if ignore is None:
        return tuple(name for name in known if name == BACKGROUND_CLASS)
    names = tuple(dict.fromkeys(ignore))
    for name in names:
        if name not in known:
            raise XViTError(
                f'ignore: class "{name}" is not one of the {len(known)} classes of the model.'
                f"{did_you_mean(name, known)}"
            )
    return names
