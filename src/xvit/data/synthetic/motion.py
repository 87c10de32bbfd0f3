"""The built-in data set: short videos of moving shapes whose class is what happens over time.

    approaching      ·  ▪  ■      each pair of classes is ONE process, drawn once and played forwards or backwards:
                     1  2  3      the second class of a pair is the first one's frames in reverse, before encoding
    receding         ■  ▪  ·
                     1  2  3

What is guaranteed: a clip and its reverse hold the same frames, so a model blind to the order of the frames, however
good, can at best name the pair: 50 %. Encoding keeps that exact: every frame is a keyframe with a constant quantiser,
so a frame decodes to the same pixels wherever it stands. Colours, textures, shapes, places and bystanders are drawn
without knowledge of the class.

What is not: one frame together with its *place* in the clip tells what the class itself does (what appears is unseen at
first). Keep a model that should be blind to the order from knowing the places. And only of what drifts (moving_left,
_right, _up, _down) a sum over each frame tells nothing: the other classes can be told from such sums in their order.
"""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from numpy.random import Generator

from xvit.utils.errors import XViTError, check_choice, check_range

J = TypeVar("J")

SIZE = 48  # height and width, pixels
FRAMES = 16
FPS = 8
QUANTISER = 20  # of H.264, constant; 0 is lossless, 23 the encoder's default

Track = np.ndarray  # (T,) float: one number a frame


@dataclass(frozen=True)
class Texture:
    """Two colours blended by a sum of two plane waves: stripes, checks or blobs, defined at every real position.

    The waves are at least 60 degrees apart, so that any displacement can be seen.
    """

    colors: np.ndarray  # (2, 3), in [0, 1]
    waves: np.ndarray  # (2, 2), radians per pixel
    phases: np.ndarray  # (2,)
    sharpness: float

    @classmethod
    def draw(cls, rng: Generator, color: np.ndarray, contrast: tuple[float, float]) -> "Texture":
        """A random texture: `color` (3,) and one that differs from it by a `contrast` drawn for each channel."""
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
        share = (0.5 + 0.5 * np.tanh(self.sharpness * wave))[..., None]
        first, second = self.colors.astype(np.float32)
        return first + share * (second - first)


# Signed distance to the outline, in units of the shape's size; negative inside. u, v: position in the shape's own axes.
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
    """A textured shape and its way through the clip; each track holds one number a frame, or one for all."""

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
            np.asarray(track, dtype=np.float32).reshape(-1, 1, 1)  # (T, 1, 1), or (1, 1, 1) for what stands still
            for track in (self.x, self.y, self.size, self.alpha)
        )
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        reach = 1.4 * size + 1  # beyond the farthest corner of any outline: the rest of the frame need not be computed
        left, right = (int(np.clip(edge, 0, SIZE)) for edge in ((x - reach).min(), (x + reach).max() + 1))
        top, bottom = (int(np.clip(edge, 0, SIZE)) for edge in ((y - reach).min(), (y + reach).max() + 1))
        dx = np.arange(left, right, dtype=np.float32) + 0.5 - x
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - y
        u, v = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size  # (T or 1, height, width)
        cover = np.clip(0.5 - OUTLINES[self.outline](u, v) * size, 0, 1) * alpha
        largest = size.max()  # the texture is glued to the shape: it grows with it
        part = frames[:, top:bottom, left:right]
        part += cover[..., None] * (self.texture(u * largest, v * largest) - part)


@dataclass
class Scene:
    """A background, and shapes painted in their order."""

    background: Texture
    shapes: list[Shape]

    def render(self) -> np.ndarray:
        """Frames (T, H, W, 3), uint8."""
        rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        frames = np.repeat(self.background(columns, rows)[None], FRAMES, axis=0)
        for shape in self.shapes:
            shape.paint(frames)
        return np.rint(frames * 255).astype(np.uint8)


def _progress(rng: Generator) -> Track:
    """(T,) from 0 to 1 at a constant speed, after a short rest and before another."""
    start, end = rng.uniform(0, 0.15), rng.uniform(0.85, 1)
    return np.clip((np.linspace(0, 1, FRAMES) - start) / (end - start), 0, 1)


def _shape(rng: Generator, scene: Scene, size: Track | float, **tracks: Track | float) -> None:
    """Put a shape into the scene: random outline, texture unlike the background, anywhere unless told otherwise."""
    outline = str(rng.choice(list(OUTLINES)))
    drawn: dict[str, Any] = {
        "x": rng.uniform(4, SIZE - 4),
        "y": rng.uniform(4, SIZE - 4),
        "angle": rng.uniform(0, 2 * math.pi),
    }
    texture = Texture.draw(rng, rng.uniform(0.6, 0.9, size=3), (0.1, 0.3))
    scene.shapes.append(Shape(outline, texture, size=size, **(drawn | tracks)))


def _around(rng: Generator, reach: float) -> tuple[float, float]:
    """A place from which `reach` pixels in any direction stay within the frame."""
    x, y = rng.uniform(reach, SIZE - reach, size=2)
    return float(x), float(y)


def _drifting(rng: Generator, scene: Scene, *, axis: str) -> None:
    """Several shapes move alike, a pixel or two a frame, and come in again where others leave.

    Every frame holds shapes at random places, whichever way they move: what a frame holds, summed up, never changes, so
    that only places compared with their own neighbourhood in the next frame tell the way.
    """
    margin = 6.0  # they turn up out of sight
    track = -rng.uniform(1.5, 2.5) * np.arange(FRAMES)
    for _ in range(rng.integers(5, 9)):
        along, across = rng.uniform(0, SIZE + 2 * margin, size=2)
        way = {axis: (along + track) % (SIZE + 2 * margin) - margin, "xy".replace(axis, ""): across - margin}
        _shape(rng, scene, rng.uniform(3, 5), **way)


def _moving_left(rng: Generator, scene: Scene) -> None:
    _drifting(rng, scene, axis="x")


def _moving_up(rng: Generator, scene: Scene) -> None:
    _drifting(rng, scene, axis="y")


def _approaching(rng: Generator, scene: Scene) -> None:
    small = rng.uniform(3.5, 5.5)
    x, y = _around(rng, 10)
    _shape(rng, scene, small * rng.uniform(1.9, 2.6) ** _progress(rng), x=x, y=y)


def _appearing(rng: Generator, scene: Scene) -> None:
    _shape(rng, scene, rng.uniform(6, 9), alpha=_progress(rng))


def _meeting(rng: Generator, scene: Scene) -> None:
    sizes = rng.uniform(4, 6.5, size=2)
    x, y = _around(rng, 16)
    direction = rng.uniform(0, 2 * math.pi)
    distance = sizes.sum() + rng.uniform(15, 22) * (1 - _progress(rng))
    for size, side in zip(sizes, (-0.5, 0.5), strict=True):
        away = side * distance
        _shape(rng, scene, size, x=x + away * math.cos(direction), y=y + away * math.sin(direction))


def _hiding(rng: Generator, scene: Scene) -> None:
    size = rng.uniform(4, 5.5)
    cover = 1.5 * size
    x, y = _around(rng, 14)
    direction = rng.uniform(0, 2 * math.pi)
    away = (cover + size + rng.uniform(0, 3)) * (1 - _progress(rng))
    _shape(rng, scene, size, x=x + away * math.cos(direction), y=y + away * math.sin(direction))
    _shape(rng, scene, cover, x=x, y=y)
    scene.shapes[-1].outline = str(rng.choice(["disc", "square"]))  # an outline that hides all behind it


# first class, second class, the process of the first; the second is the first played backwards
PAIRS: tuple[tuple[str, str, Callable[[Generator, Scene], None]], ...] = (
    ("moving_left", "moving_right", _moving_left),
    ("moving_up", "moving_down", _moving_up),
    ("approaching", "receding", _approaching),
    ("appearing", "disappearing", _appearing),
    ("two_shapes_meeting", "two_shapes_parting", _meeting),
    ("hiding_behind", "coming_out_from_behind", _hiding),
)
CLASSES: tuple[str, ...] = tuple(name for first, second, _ in PAIRS for name in (first, second))


def render(label: str, rng: Generator) -> np.ndarray:
    """Draw one clip of a class.

    Args:
        label: one of `CLASSES`.
        rng: where colours, textures, places, sizes, speeds and bystanders come from. The same state gives the two
            classes of a pair the same frames in opposite orders.

    Returns:
        Frames (T, H, W, 3), uint8.

    Raises:
        XViTError: no such class.
    """
    check_choice("label", label, CLASSES)
    pair, backwards = divmod(CLASSES.index(label), 2)
    scene = Scene(Texture.draw(rng, rng.uniform(0, 0.2, size=3), (0.12, 0.25)), [])
    for _ in range(rng.integers(0, 3)):
        _shape(rng, scene, rng.uniform(2, 4))
    PAIRS[pair][2](rng, scene)
    frames = scene.render()
    return frames[::-1] if backwards else frames


def encode(frames: np.ndarray, path: str | Path) -> None:
    """Write frames (T, H, W, 3), uint8, as H.264 in MP4, each frame on its own.

    No frame refers to another (a predicted frame's residue would trail behind a moving shape) and the quantiser is
    constant (rate control would drift along the clip), so the frames in reverse decode to the same pixels in reverse.
    """
    options = {"qp": str(QUANTISER), "preset": "veryfast", "x264-params": "keyint=1:scenecut=0:aq-mode=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # what every player and browser shows
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_motion(
    output: str | Path,
    *,
    clips_per_class: int,
    seed: int = 0,
    val_fraction: float = 0.2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the data set: output/train/<class>/0000.mp4 ... and output/val/<class>/0000.mp4 ...

    Each clip is a function of (seed, split, class, index) alone: the held-out clips are draws of their own, and a
    larger data set holds the smaller one's training clips. The folder appears when it is whole, not before.

    Args:
        output: the folder to make; may exist if it is empty.
        clips_per_class: clips of each of `CLASSES`, both splits together.
        seed: another seed, other clips.
        val_fraction: share of them held out, rounded to whole clips.
        on_progress: called with (clips written, clips in all) after each clip.

    Raises:
        XViTError: a value out of its range; `output` is a file or holds something.
    """
    check_range("clips_per_class", clips_per_class, 1)
    check_range("seed", seed, 0)
    check_range("val_fraction", val_fraction, 0, 1)
    held_out = round(clips_per_class * val_fraction)
    jobs = [
        (split, label, index)
        for split, number in (("train", clips_per_class - held_out), ("val", held_out))
        for label in CLASSES
        for index in range(number)
    ]

    def write(folder: Path, job: tuple[str, str, int]) -> None:
        split, label, index = job
        key = [seed, ("train", "val").index(split), CLASSES.index(label), index]
        path = folder / split / label / f"{index:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(render(label, np.random.default_rng(key)), path)

    fill_folder(output, jobs, write, on_progress=on_progress)


def fill_folder(
    output: str | Path,
    jobs: Sequence[J],
    write: Callable[[Path, J], None],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make a folder that appears when it is whole, not before, by jobs that run side by side.

    Args:
        output: the folder to make; may exist if it is empty.
        jobs: what there is to write.
        write: writes one of them, given the folder to write in.
        on_progress: called with (jobs done, jobs in all) after each of them.

    Raises:
        XViTError: `output` is a file or holds something.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise XViTError(f"{output}: exists and is not an empty folder; choose another one or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as unfinished:
        made = Path(unfinished, output.name)
        made.mkdir()
        pool = ThreadPoolExecutor(os.cpu_count())  # numpy and the encoder let go of the interpreter's lock
        try:
            for done, _ in enumerate(pool.map(lambda job: write(made, job), jobs), start=1):
                if on_progress is not None:
                    on_progress(done, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)
        if output.exists():
            output.rmdir()
        made.rename(output)
