"""Drawing: textured shapes that move over a textured ground."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

SIZE = 48  # height and width in pixels

Track = np.ndarray  # (T,) float: one number per frame


@dataclass(frozen=True)
class Texture:
    """Two colours blended by a sum of two plane waves: stripes, checks or blobs, defined at every real position.

    The waves are at least 60 degrees apart, so that a displacement in any direction is visible.
    """

    colors: np.ndarray  # (2, 3), in [0, 1]
    waves: np.ndarray  # (2, 2), radians per pixel
    phases: np.ndarray  # (2,)
    sharpness: float

    @classmethod
    def draw(cls, rng: Generator, color: np.ndarray, contrast: tuple[float, float]) -> "Texture":
        """A random texture of `color` (3,) and a second colour that differs by a random `contrast` in each channel."""
        angle = rng.uniform(0, math.pi)
        angles = np.array([angle, angle + rng.uniform(math.pi / 3, 2 * math.pi / 3)])
        lengths = rng.uniform(8, 16, size=2)
        waves = 2 * math.pi / lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        other = (color + rng.uniform(*contrast, size=3)).clip(0, 1)
        return cls(np.stack([color, other]), waves, rng.uniform(0, 2 * math.pi, size=2), rng.uniform(0.7, 2.0))

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours (..., 3) at the positions x, y in pixels."""
        (ax, ay), (bx, by) = self.waves
        wave = np.sin(ax * x + ay * y + self.phases[0]) + np.sin(bx * x + by * y + self.phases[1])
        blend = (0.5 + 0.5 * np.tanh(self.sharpness * wave))[..., None]
        first, second = self.colors.astype(np.float32)
        return first + blend * (second - first)


# Signed distances to the outline in units of the shape's size, negative inside. u, v: position in the shape's axes.
OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: np.sqrt(u * u + v * v) - 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.9,
    "triangle": lambda u, v: np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - 0.65,
    "bar": lambda u, v: np.maximum(np.abs(u) - 1.2, np.abs(v) - 0.55),
    "cross": lambda u, v: np.minimum(
        np.maximum(np.abs(u) - 1.1, np.abs(v) - 0.45), np.maximum(np.abs(u) - 0.45, np.abs(v) - 1.1)
    ),
}


@dataclass
class Shape:
    """A textured shape and its path through the clip. A track holds one number per frame, or one for all frames."""

    outline: str
    texture: Texture
    x: Track | float
    y: Track | float
    size: Track | float
    angle: float = 0.0  # radians, clockwise on the screen
    alpha: Track | float = 1.0

    def paint(self, frames: np.ndarray) -> None:
        """Blend the shape into frames (T, H, W, 3), in place."""
        x, y, size, alpha = (
            np.asarray(track, dtype=np.float32).reshape(-1, 1, 1)  # (T, 1, 1), or (1, 1, 1) if constant
            for track in (self.x, self.y, self.size, self.alpha)
        )
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        reach = 1.4 * size + 1  # covers all outlines: pixels farther away are unchanged
        left, right = (int(np.clip(edge, 0, SIZE)) for edge in ((x - reach).min(), (x + reach).max() + 1))
        top, bottom = (int(np.clip(edge, 0, SIZE)) for edge in ((y - reach).min(), (y + reach).max() + 1))
        dx = np.arange(left, right, dtype=np.float32) + 0.5 - x
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - y
        u, v = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size  # (T or 1, height, width)
        opacity = np.clip(0.5 - OUTLINES[self.outline](u, v) * size, 0, 1) * alpha
        largest = size.max()  # the texture grows with the shape
        region = frames[:, top:bottom, left:right]
        region += opacity[..., None] * (self.texture(u * largest, v * largest) - region)


@dataclass
class Scene:
    """Shapes over a ground, the first ones farthest away."""

    ground: Texture
    shapes: list[Shape]

    def render(self, num_frames: int, dx: Track | float = 0.0, dy: Track | float = 0.0) -> np.ndarray:
        """Frames (T, H, W, 3) float32, in [0, 1]; the whole scene is displaced by dx and dy pixels."""
        rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        right, down = (np.asarray(track, dtype=np.float32).reshape(-1, 1, 1) for track in (dx, dy))
        ground = self.ground(columns - right, rows - down)  # (T or 1, H, W, 3)
        frames = np.repeat(ground, num_frames // len(ground), axis=0)
        for shape in self.shapes:
            replace(shape, x=shape.x + dx, y=shape.y + dy).paint(frames)
        return frames
