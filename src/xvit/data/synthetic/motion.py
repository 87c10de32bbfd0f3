"""The classes of the built-in data set. A class is what happens over time.

    approaching      ·  ▪  ■      the two classes of a pair share ONE process, played forwards or backwards:
                     1  2  3      the second class has the frames of the first in reverse order, before encoding
    receding         ■  ▪  ·
                     1  2  3

Guaranteed: a clip and its reverse hold the same frames, so a model that ignores the order of the frames can at best
recognise the pair: 50 % accuracy. Encoding preserves this exactly: every frame is a keyframe with a constant quantiser,
so a frame decodes to the same pixels at any position. Colours, textures, shapes, positions and background shapes are
drawn independently of the class.

Not guaranteed: a single frame together with its *position* in the clip can reveal the class (an appearing shape is
invisible at first), so a model that should ignore the order must not know the positions. Only the drifting classes
(moving_left, _right, _up, _down) cannot be told apart from the sequence of per-frame sums.

All of this holds for the pairs only. The optional class of `background.py` has no counterpart, and frames without their
order often reveal it.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.random import Generator

from xvit.data.synthetic.shapes import OUTLINES, SIZE, Scene, Shape, Texture, Track
from xvit.utils.errors import check_choice

SECONDS = 2  # of a clip
FPS = 8  # unless another frame rate is asked for; speeds are in pixels per frame at this rate
FRAMES = SECONDS * FPS


def _progress(rng: Generator, ticks: Track) -> Track:
    """(T,) from 0 to 1 at a constant speed, with a short pause before and after."""
    start, end = rng.uniform(0, 0.15), rng.uniform(0.85, 1)
    return np.clip((ticks * (1 / (FRAMES - 1)) - start) / (end - start), 0, 1)


def _random_shape(rng: Generator, size: Track | float, **tracks: Track | float) -> Shape:
    """A shape with a random outline, a texture brighter than the background, and by default a random position."""
    outline = str(rng.choice(list(OUTLINES)))
    position = {"x": rng.uniform(4, SIZE - 4), "y": rng.uniform(4, SIZE - 4)}
    angle = rng.uniform(0, 2 * math.pi)
    texture = Texture.draw(rng, rng.uniform(0.6, 0.9, size=3), (0.1, 0.3))
    return Shape(outline, texture, size=size, angle=angle, **(position | tracks))


def _random_center(rng: Generator, margin: float) -> tuple[float, float]:
    """A random position at least `margin` pixels away from the border of the frame."""
    x, y = rng.uniform(margin, SIZE - margin, size=2)
    return float(x), float(y)


def _drifting(rng: Generator, ticks: Track, *, axis: str) -> list[Shape]:
    """Several shapes move alike, a pixel or two per frame. A shape that leaves on one side enters on the other.

    The positions within each frame are random whatever the direction, so sums over a frame do not reveal it: only
    positions compared with their neighbourhood in the next frame do.
    """
    margin = 6.0  # shapes wrap around outside the visible area
    track = -rng.uniform(1.5, 2.5) * ticks
    shapes = []
    for _ in range(rng.integers(5, 9)):
        along, across = rng.uniform(0, SIZE + 2 * margin, size=2)
        moving, fixed = (along + track) % (SIZE + 2 * margin) - margin, across - margin
        x, y = (moving, fixed) if axis == "x" else (fixed, moving)
        shapes.append(_random_shape(rng, rng.uniform(3, 5), x=x, y=y))
    return shapes


def _approaching(rng: Generator, ticks: Track) -> list[Shape]:
    small = rng.uniform(3.5, 5.5)
    x, y = _random_center(rng, 10)
    return [_random_shape(rng, small * rng.uniform(1.9, 2.6) ** _progress(rng, ticks), x=x, y=y)]


def _appearing(rng: Generator, ticks: Track) -> list[Shape]:
    return [_random_shape(rng, rng.uniform(6, 9), alpha=_progress(rng, ticks))]


def _meeting(rng: Generator, ticks: Track) -> list[Shape]:
    sizes = rng.uniform(4, 6.5, size=2)
    x, y = _random_center(rng, 16)
    direction = rng.uniform(0, 2 * math.pi)
    distance = sizes.sum() + rng.uniform(15, 22) * (1 - _progress(rng, ticks))
    dx, dy = distance / 2 * math.cos(direction), distance / 2 * math.sin(direction)
    return [
        _random_shape(rng, size, x=x + side * dx, y=y + side * dy) for size, side in zip(sizes, (-1, 1), strict=True)
    ]


def _hiding(rng: Generator, ticks: Track) -> list[Shape]:
    size = rng.uniform(4, 5.5)
    x, y = _random_center(rng, 14)
    direction = rng.uniform(0, 2 * math.pi)
    offset = (2.5 * size + rng.uniform(0, 3)) * (1 - _progress(rng, ticks))
    hidden = _random_shape(rng, size, x=x + offset * math.cos(direction), y=y + offset * math.sin(direction))
    cover = _random_shape(rng, 1.5 * size, x=x, y=y)
    cover.outline = str(rng.choice(["disc", "square"]))  # outlines that hide the whole shape behind them
    return [hidden, cover]


# first class, second class (the first played backwards), process of the first class
PAIRS: tuple[tuple[str, str, Callable[[Generator, Track], list[Shape]]], ...] = (
    ("moving_left", "moving_right", partial(_drifting, axis="x")),
    ("moving_up", "moving_down", partial(_drifting, axis="y")),
    ("approaching", "receding", _approaching),
    ("appearing", "disappearing", _appearing),
    ("two_shapes_meeting", "two_shapes_parting", _meeting),
    ("hiding_behind", "coming_out_from_behind", _hiding),
)
CLASSES: tuple[str, ...] = tuple(name for first, second, _ in PAIRS for name in (first, second))


def render_clip(label: str, rng: Generator, *, fps: float = FPS) -> np.ndarray:
    """Draw one clip of a class.

    Args:
        label: one of `CLASSES`.
        rng: draws colours, textures, positions, sizes, speeds and background shapes. From the same state, the two
            classes of a pair get the same frames in opposite orders.
        fps: frames per second; the same motion is drawn at these times.

    Returns:
        Frames (T, H, W, 3), uint8: `SECONDS` of video.

    Raises:
        XViTError: no such class.
    """
    check_choice("label", label, CLASSES)
    pair, backwards = divmod(CLASSES.index(label), 2)
    num_frames = frame_count(SECONDS, fps)
    frames = to_uint8(draw_scene(pair, rng, np.arange(num_frames) * (FPS / fps)).render(num_frames))
    return frames[::-1] if backwards else frames


def draw_scene(pair: int, rng: Generator, ticks: Track) -> Scene:
    """A random scene of one of `PAIRS`, whose first class it shows.

    Args:
        pair: index of the pair.
        rng: as in `render_clip`.
        ticks: (T,) the time of each frame, in frames at `FPS`; the motion lasts from 0 to `FRAMES` - 1.
    """
    ground = Texture.draw(rng, rng.uniform(0, 0.2, size=3), (0.12, 0.25))
    background_shapes = [_random_shape(rng, rng.uniform(2, 4)) for _ in range(rng.integers(0, 3))]
    return Scene(ground, [*background_shapes, *PAIRS[pair][2](rng, ticks)])


def frame_count(seconds: float, fps: float) -> int:
    """Number of frames of a part of a video: at least 1."""
    return max(round(seconds * fps), 1)


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as uint8 in [0, 255]."""
    return np.rint(frames * 255).astype(np.uint8)
