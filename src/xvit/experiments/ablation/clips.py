"""The clips of the ablation study, and the images that its image model learns.

frame   1        2        3
      ■  ·     · ■           ■      a disc and a square move, each in its own way, over a textured ground;
        ·          ●        ●       the class is how the DISC moves: the square's motion says nothing about it
      ●                   ·
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.random import Generator

from xvit.data.synthetic.motion import to_uint8
from xvit.data.synthetic.shapes import OUTLINES, SIZE, Scene, Shape, Texture, Track
from xvit.utils.files import atomic_directory

NUM_FRAMES = 6
MOTIONS = (
    *("right", "down_right", "down", "down_left", "left", "up_left", "up", "up_right"),
    *("clockwise", "counterclockwise", "back_and_forth_horizontally", "back_and_forth_vertically"),
)
_CELLS = 4  # an image has a grid of 4 x 4 cells
_ABSENT = _CELLS**2
# The image model tells for each outline in which cell its centre is, or that it is absent: the numbers of classes.
IMAGE_TASKS = dict.fromkeys(OUTLINES, _CELLS**2 + 1)
SPLITS = ("train", "val", "test", "images")
_RADIUS = (6.0, 9.0)  # of the shapes, in pixels
_SHAKE = 1.0  # largest displacement of the camera, in pixels
_KEY = 17  # first number of the random seeds: no clip of another data set is drawn from it

CountCallback = Callable[[int, int], None]


def motion_path(motion: str, rng: Generator) -> tuple[Track, Track]:
    """Where a shape is relative to the middle of its path: x and y, each (T,), in pixels; y grows downwards.

    A straight path is 16 to 22 px long and deviates by up to 10 degrees from its direction; a circle has a radius of 6
    to 8 px and is passed through three quarters or more; back and forth are 11 to 16 px.
    """
    time = np.linspace(0, 1, NUM_FRAMES)
    kind = MOTIONS.index(motion)
    if kind < 8:
        angle = math.radians(45 * kind + rng.uniform(-10, 10))
        along = rng.uniform(16, 22) * (time - 0.5)
        return along * math.cos(angle), along * math.sin(angle)
    if kind < 10:
        turn = 1 if motion == "clockwise" else -1
        angles = rng.uniform(0, 2 * math.pi) + turn * rng.uniform(1.5, 2) * math.pi * time
        radius = rng.uniform(6, 8)
        return radius * np.cos(angles), radius * np.sin(angles)
    along = rng.choice([-1, 1]) * rng.uniform(11, 16) * (np.sin(math.pi * time) - 0.5)
    return (along, 0 * time) if motion.endswith("horizontally") else (0 * time, along)


def render_clip(label: int, rng: Generator) -> np.ndarray:
    """A clip (T, H, W, 3), uint8, in which the disc moves as `MOTIONS` at index `label`, and the square in any way."""
    shapes = [_moving_shape("disc", MOTIONS[label], rng), _moving_shape("square", str(rng.choice(MOTIONS)), rng)]
    if rng.random() < 0.5:  # which one is in front
        shapes.reverse()
    dx, dy = rng.uniform(-_SHAKE, _SHAKE, size=(2, NUM_FRAMES))
    return to_uint8(Scene(_ground(rng), shapes).render(NUM_FRAMES, dx, dy))


def render_image(rng: Generator) -> tuple[np.ndarray, dict[str, int]]:
    """An image (H, W, 3), uint8, of two shapes of different outlines at rest, and its labels: see `IMAGE_TASKS`."""
    labels = dict.fromkeys(IMAGE_TASKS, _ABSENT)
    shapes = []
    for outline in rng.choice(list(OUTLINES), size=2, replace=False):
        x, y = rng.uniform(3, SIZE - 3, size=2)
        labels[str(outline)] = int(_CELLS * y / SIZE) * _CELLS + int(_CELLS * x / SIZE)
        shapes.append(_shape(str(outline), rng, x=x, y=y, size=rng.uniform(*_RADIUS)))
    return to_uint8(Scene(_ground(rng), shapes).render(1))[0], labels


def _moving_shape(outline: str, motion: str, rng: Generator) -> Shape:
    """A shape whose path lies within the frame."""
    (x, y), size = motion_path(motion, rng), rng.uniform(*_RADIUS)
    margin = 3  # of the shape's centre from the border
    x, y = (track + rng.uniform(margin - track.min(), SIZE - margin - track.max()) for track in (x, y))
    return _shape(outline, rng, x=x, y=y, size=size)


def _shape(outline: str, rng: Generator, *, x: Track | float, y: Track | float, size: float) -> Shape:
    texture = Texture.draw(rng, rng.uniform(0.6, 0.9, size=3), (0.05, 0.15))
    return Shape(outline, texture, x=x, y=y, size=size, angle=rng.uniform(0, 2 * math.pi))


def _ground(rng: Generator) -> Texture:
    return Texture.draw(rng, rng.uniform(0, 0.2, size=3), (0.05, 0.12))


def write_clips(directory: Path, counts: dict[str, int], on_progress: CountCallback) -> None:
    """Write the pixels and the labels of each split as NumPy arrays, unless they are there.

    The pixels of a split are (n, T, C, H, W), uint8; images have T = 1. An array's rows are a function of the split
    and the row alone, so that a smaller study has the first rows of a larger one.

    Args:
        directory: appears once all is written.
        counts: the number n of clips or images of each of `SPLITS`.
        on_progress: called with the number of clips and images drawn, and the total.
    """
    if directory.exists():
        return
    total, done = sum(counts.values()), 0
    with atomic_directory(directory) as tmp_path:
        for split, count in counts.items():
            tasks, frames = (len(IMAGE_TASKS), 1) if split == "images" else (1, NUM_FRAMES)
            pixels = open_memmap(tmp_path / f"{split}_pixels.npy", "w+", np.uint8, (count, frames, 3, SIZE, SIZE))
            labels = np.empty((count, tasks), np.int64)
            for row in range(count):
                clip, labels[row] = _draw(split, row)
                pixels[row] = clip.transpose(0, 3, 1, 2)
                done += 1
                if done % 64 == 0 or done == total:
                    on_progress(done, total)
            pixels.flush()
            np.save(tmp_path / f"{split}_labels.npy", labels)


def _draw(split: str, row: int) -> tuple[np.ndarray, list[int]]:
    """A row of a split: frames (T, H, W, 3) and labels."""
    rng = np.random.default_rng([_KEY, SPLITS.index(split), row])
    if split == "images":
        image, labels = render_image(rng)
        return image[None], list(labels.values())
    label = row % len(MOTIONS)
    return render_clip(label, rng), [label]
