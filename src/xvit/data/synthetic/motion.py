"""The built-in data set: short videos of moving shapes. A class is what happens over time.

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
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator

from xvit.utils.errors import check_choice, check_range
from xvit.utils.files import atomic_directory, check_new_directory

SIZE = 48  # height and width in pixels
FRAMES = 16
FPS = 8
QUANTISER = 20  # constant H.264 quantiser; 0 is lossless, 23 the default of the encoder

Track = np.ndarray  # (T,) float: one number per frame
SeededClip = tuple[str, Sequence[int]]  # class and random seed


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


def _progress(rng: Generator) -> Track:
    """(T,) from 0 to 1 at a constant speed, with a short pause before and after."""
    start, end = rng.uniform(0, 0.15), rng.uniform(0.85, 1)
    return np.clip((np.linspace(0, 1, FRAMES) - start) / (end - start), 0, 1)


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


def _drifting(rng: Generator, *, axis: str) -> list[Shape]:
    """Several shapes move alike, a pixel or two per frame. A shape that leaves on one side enters on the other.

    The positions within each frame are random whatever the direction, so sums over a frame do not reveal it: only
    positions compared with their neighbourhood in the next frame do.
    """
    margin = 6.0  # shapes wrap around outside the visible area
    track = -rng.uniform(1.5, 2.5) * np.arange(FRAMES)
    shapes = []
    for _ in range(rng.integers(5, 9)):
        along, across = rng.uniform(0, SIZE + 2 * margin, size=2)
        moving, fixed = (along + track) % (SIZE + 2 * margin) - margin, across - margin
        x, y = (moving, fixed) if axis == "x" else (fixed, moving)
        shapes.append(_random_shape(rng, rng.uniform(3, 5), x=x, y=y))
    return shapes


def _approaching(rng: Generator) -> list[Shape]:
    small = rng.uniform(3.5, 5.5)
    x, y = _random_center(rng, 10)
    return [_random_shape(rng, small * rng.uniform(1.9, 2.6) ** _progress(rng), x=x, y=y)]


def _appearing(rng: Generator) -> list[Shape]:
    return [_random_shape(rng, rng.uniform(6, 9), alpha=_progress(rng))]


def _meeting(rng: Generator) -> list[Shape]:
    sizes = rng.uniform(4, 6.5, size=2)
    x, y = _random_center(rng, 16)
    direction = rng.uniform(0, 2 * math.pi)
    distance = sizes.sum() + rng.uniform(15, 22) * (1 - _progress(rng))
    dx, dy = distance / 2 * math.cos(direction), distance / 2 * math.sin(direction)
    return [
        _random_shape(rng, size, x=x + side * dx, y=y + side * dy) for size, side in zip(sizes, (-1, 1), strict=True)
    ]


def _hiding(rng: Generator) -> list[Shape]:
    size = rng.uniform(4, 5.5)
    x, y = _random_center(rng, 14)
    direction = rng.uniform(0, 2 * math.pi)
    offset = (2.5 * size + rng.uniform(0, 3)) * (1 - _progress(rng))
    hidden = _random_shape(rng, size, x=x + offset * math.cos(direction), y=y + offset * math.sin(direction))
    cover = _random_shape(rng, 1.5 * size, x=x, y=y)
    cover.outline = str(rng.choice(["disc", "square"]))  # outlines that hide the whole shape behind them
    return [hidden, cover]


# first class, second class (the first played backwards), process of the first class
PAIRS: tuple[tuple[str, str, Callable[[Generator], list[Shape]]], ...] = (
    ("moving_left", "moving_right", partial(_drifting, axis="x")),
    ("moving_up", "moving_down", partial(_drifting, axis="y")),
    ("approaching", "receding", _approaching),
    ("appearing", "disappearing", _appearing),
    ("two_shapes_meeting", "two_shapes_parting", _meeting),
    ("hiding_behind", "coming_out_from_behind", _hiding),
)
CLASSES: tuple[str, ...] = tuple(name for first, second, _ in PAIRS for name in (first, second))


def render_clip(label: str, rng: Generator) -> np.ndarray:
    """Draw one clip of a class.

    Args:
        label: one of `CLASSES`.
        rng: draws colours, textures, positions, sizes, speeds and background shapes. From the same state, the two
            classes of a pair get the same frames in opposite orders.

    Returns:
        Frames (T, H, W, 3), uint8.

    Raises:
        XViTError: no such class.
    """
    check_choice("label", label, CLASSES)
    pair, backwards = divmod(CLASSES.index(label), 2)
    background = Texture.draw(rng, rng.uniform(0, 0.2, size=3), (0.12, 0.25))
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    frames = np.repeat(background(columns, rows)[None], FRAMES, axis=0)
    background_shapes = [_random_shape(rng, rng.uniform(2, 4)) for _ in range(rng.integers(0, 3))]
    for shape in [*background_shapes, *PAIRS[pair][2](rng)]:
        shape.paint(frames)
    frames = np.rint(frames * 255).astype(np.uint8)
    return frames[::-1] if backwards else frames


def encode_video(frames: np.ndarray, path: str | Path) -> None:
    """Write frames (T, H, W, 3), uint8, as H.264 in MP4, with keyframes only.

    No frame refers to another one (the residue of predicted frames would trail behind a moving shape) and the quantiser
    is constant (rate control would drift along the clip), so reversed frames decode to the same pixels in reverse.
    """
    options = {"qp": str(QUANTISER), "preset": "veryfast", "x264-params": "keyint=1:scenecut=0:aq-mode=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # supported by every player and browser
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_motion_dataset(
    output: str | Path,
    *,
    clips_per_class: int,
    seed: int = 0,
    val_fraction: float = 0.2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write output/train/<class>/0000.mp4 ... and output/val/<class>/0000.mp4 ..., as `write_videos` does.

    Each clip is a function of (seed, split, class, index) only. The two splits are drawn independently, and a larger
    data set contains the training clips of a smaller one.

    Args:
        output: directory to create; may exist if it is empty.
        clips_per_class: number of clips per class, both splits together.
        seed: random seed.
        val_fraction: fraction held out for validation, rounded to whole clips.
        on_progress: called with (clips written, total clips) after each clip.

    Raises:
        XViTError: a value out of its range; `output` is a file or not empty.
    """
    check_range("clips_per_class", clips_per_class, 1)
    check_range("seed", seed, 0)
    check_range("val_fraction", val_fraction, 0, 1)
    num_val = round(clips_per_class * val_fraction)
    videos: dict[str, list[SeededClip]] = {}
    for number, (split, count) in enumerate({"train": clips_per_class - num_val, "val": num_val}.items()):
        for label, index in product(CLASSES, range(count)):
            videos[f"{split}/{label}/{index:04d}.mp4"] = [(label, [seed, number, CLASSES.index(label), index])]
    write_videos(output, videos, on_progress=on_progress)


def write_videos(
    output: str | Path,
    videos: Mapping[str, Sequence[SeededClip]],
    *,
    texts: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write videos of one or more clips, in parallel. The directory appears only once it is complete.

    Args:
        output: directory to create; may exist if it is empty.
        videos: the clips of each video, by its path in the directory.
        texts: the contents of other files, by name.
        on_progress: called with (videos written, total videos) after each video.
    """
    check_new_directory(output, "choose another one or remove it")
    with atomic_directory(output) as directory:

        def write_video(name: str) -> None:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            clips = [render_clip(label, np.random.default_rng(seed)) for label, seed in videos[name]]
            encode_video(np.concatenate(clips), path)

        for name, text in (texts or {}).items():
            (directory / name).write_text(text, encoding="utf-8")
        pool = ThreadPoolExecutor(os.cpu_count())  # numpy and the encoder release the GIL
        try:
            for done, _ in enumerate(pool.map(write_video, videos), start=1):
                if on_progress is not None:
                    on_progress(done, len(videos))
        finally:
            pool.shutdown(cancel_futures=True)
