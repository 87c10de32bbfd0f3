"""Turn frames the way that players show them, as their display matrix says (mp4, mkv, H.264, Exif of images).

x' = a x + c y          The pixel at (x, y) of the stored frame is shown at (x', y'), apart from a shift that
y' = b x + d y          makes both start at 0. These are the eight ways to place a frame upon a screen:

a b     1  0    -1  0     1  0    -1  0       0  1     0  1     0 -1     0 -1
c d     0  1     0  1     0 -1     0 -1       1  0    -1  0     1  0    -1  0
      as stored mirrored  flipped  180°    transposed  90°      -90°    transposed and turned by 180°
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type

ODD_MATRIX = "displayed at an angle or sheared: the nearest quarter turn or mirroring is used"

_MIN_COSINE = math.cos(math.radians(2))  # FFmpeg, too, takes a matrix for a quarter turn up to this angle


class Orientation(NamedTuple):
    """One of the eight matrices; `exact` is false if it stands for a display matrix that is none of them."""

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1
    exact: bool = True

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Return a view of a stored frame (H, W, C) as it is shown: (H, W, C), or (W, H, C) if it is transposed."""
        frame = frame if self.a else frame.swapaxes(0, 1)
        return frame[:: self.b + self.d, :: self.a + self.c]

    def displayed_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return the width and height of a frame as it is shown."""
        return (frame.width, frame.height) if self.a else (frame.height, frame.width)


_UPRIGHT = [Orientation(a=a, d=d) for a in (1, -1) for d in (1, -1)]
_TRANSPOSED = [Orientation(a=0, b=b, c=c, d=0) for b in (1, -1) for c in (1, -1)]


def read_orientation(frame: av.VideoFrame, previous: Orientation) -> Orientation:
    """Return how a decoded frame is shown; `previous` is the orientation of the frame decoded before it.

    A container has a matrix for all frames, and an image has its own. A message of H.264 or HEVC holds until the next
    one; FFmpeg reports it for one frame only.
    """
    for side_data in list[Any](frame.side_data):  # typed as a mapping, but it lists its values
        if side_data.type is Type.DISPLAYMATRIX:  # of several, FFmpeg takes the first
            return parse_matrix(bytes(side_data))
    return previous


@lru_cache(maxsize=16)
def parse_matrix(data: bytes) -> Orientation:
    """Return the orientation nearest to a display matrix: 9 integers of 4 bytes (a, b, u, c, d, v, x, y, w).

    The lengths of the vectors do not matter. As in FFmpeg, a degenerate matrix changes nothing.
    """
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()
    x_scale, y_scale = math.hypot(a, c), math.hypot(b, d)
    if not x_scale or not y_scale:
        return Orientation()
    matrix = (a / x_scale, b / y_scale, c / x_scale, d / y_scale)

    def cosine(candidate: Orientation) -> float:
        return sum(x * y for x, y in zip(matrix, candidate[:4], strict=True)) / 2

    nearest = max(*_UPRIGHT, *_TRANSPOSED, key=cosine)
    return nearest._replace(exact=cosine(nearest) >= _MIN_COSINE)


def _unknown_type(cls: Any, value: int) -> Any:
    member = object.__new__(cls)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


# PyAV 18 fails to list the side data of a frame if it does not know the kind of one of them, such as Exif.
setattr(Type, "_missing_", classmethod(_unknown_type))  # noqa: B010
