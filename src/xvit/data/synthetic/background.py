"""Videos in which nothing happens: an optional class of the built-in data set, for models that watch long videos.

    static     a scene of the other classes at one moment        flicker   brightness rises and falls, or jumps
    blank      one colour, or very little texture                shake     the camera trembles around one position
    noise      noise on a blank picture                          cut       two of the other kinds, one after the other
    grain      noise over a static scene

Guaranteed: nothing moves, grows, appears or disappears, except between the two halves of a cut. Noise, shake and jumps
are drawn independently for each frame, so they have no direction: their mean displacement is 0.

A single frame of a static scene does not reveal the class: it is a frame of one of the other classes.
"""

import math

import numpy as np
from numpy.random import Generator

from xvit.data.synthetic.motion import FPS, FRAMES, PAIRS, SECONDS, draw_scene, frame_count, to_uint8
from xvit.data.synthetic.shapes import SIZE, Scene, Texture
from xvit.utils.errors import check_choice

BACKGROUND = "background"  # the name of the class
KINDS = ("static", "blank", "noise", "grain", "flicker", "shake", "cut")

_NOISES = ("normal", "uniform", "binary", "sparse")
_GRAINS = (1, 1, 1, 2, 3, 4, 6, 8, 12, 16)  # pixels


def render_background(
    rng: Generator, *, kind: str | None = None, seconds: float = SECONDS, fps: float = FPS
) -> np.ndarray:
    """Draw a video in which nothing happens.

    Args:
        rng: draws everything that is not given.
        kind: one of `KINDS`; a random one if None.
        seconds: length of the video, rounded to whole frames.
        fps: frames per second.

    Returns:
        Frames (T, H, W, 3), uint8.

    Raises:
        XViTError: no such kind.
    """
    kind = str(rng.choice(KINDS)) if kind is None else kind
    check_choice("kind", kind, KINDS)
    num_frames = frame_count(seconds, fps)
    if kind != "cut":
        return to_uint8(_render(kind, rng, num_frames, fps).clip(0, 1))
    before, after = (_render(str(half), rng, num_frames, fps) for half in rng.choice(KINDS[:-1], size=2))
    first = round(num_frames * rng.uniform(0.1, 0.9))  # frame after the cut
    return to_uint8(np.concatenate([before[:first], after[first:]]).clip(0, 1))


def _render(kind: str, rng: Generator, num_frames: int, fps: float) -> np.ndarray:
    """Frames (T, H, W, 3) float32 of any kind but "cut"; values may exceed [0, 1]."""
    blank = kind in ("blank", "noise") or (kind == "flicker" and rng.random() < 0.5)
    scene = _blank_scene(rng) if blank else _still_scene(rng)
    dx, dy = _jitter(rng, num_frames) if kind == "shake" else (0.0, 0.0)
    frames = scene.render(num_frames, dx, dy)
    if not blank and rng.random() < 0.5:
        frames = _change_exposure(rng, frames)
    if kind == "flicker":
        frames *= _brightness(rng, np.arange(num_frames) / fps)
    if kind == "noise":
        frames += _noise(rng, num_frames, strength=_log_uniform(rng, 0.05, 1))
    elif kind == "grain" or (kind in ("flicker", "shake") and rng.random() < 0.3):
        frames += _noise(rng, num_frames, strength=_log_uniform(rng, 0.02, 0.4))
    return frames


def _still_scene(rng: Generator) -> Scene:
    """A scene of a random motion, at a random moment."""
    return draw_scene(int(rng.integers(len(PAIRS))), rng, rng.uniform(0, FRAMES - 1, size=1))


def _blank_scene(rng: Generator) -> Scene:
    """One colour, or a texture of very little contrast."""
    color = np.full(3, rng.random()) if rng.random() < 0.5 else rng.random(3)
    contrast = rng.uniform(0, 0.1) if rng.random() < 0.5 else 0.0
    return Scene(Texture.draw(rng, color, (-contrast, contrast)), [])


def _jitter(rng: Generator, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The displacement of each frame in pixels, (T,) and (T,): around 0, independent of all other frames."""
    shaken = rng.random(num_frames) < rng.choice([0.2, 0.5, 1.0])
    dx, dy = rng.normal(0, rng.uniform(0.3, 2), size=(2, num_frames)).clip(-4, 4) * shaken
    return dx, dy


def _change_exposure(rng: Generator, frames: np.ndarray) -> np.ndarray:
    """The frames with other brightness and contrast, sometimes as a negative."""
    contrast = rng.uniform(0.3, 1)
    if rng.random() < 0.4:
        frames = 1 - frames
    return np.float32(rng.uniform(0, 1 - contrast)) + np.float32(contrast) * frames


def _brightness(rng: Generator, seconds: np.ndarray) -> np.ndarray:
    """A factor for each frame (T, 1, 1, 1): a wave of any frequency, or a random value."""
    strength = rng.uniform(0.05, 0.4)
    if rng.random() < 0.3:
        factor = 1 + strength * rng.uniform(-1, 1, size=len(seconds))
    else:
        phase = rng.uniform(0, 2 * math.pi)
        factor = 1 + strength * np.sin(2 * math.pi * _log_uniform(rng, 0.05, 4) * seconds + phase)
    return factor.astype(np.float32).reshape(-1, 1, 1, 1)


def _noise(rng: Generator, num_frames: int, *, strength: float) -> np.ndarray:
    """Noise to be added to the frames (T, H, W, 1 or 3): new in each frame, constant within each grain."""
    noise, grain = str(rng.choice(_NOISES)), int(rng.choice(_GRAINS))
    cells = SIZE // grain + 2
    shape = (num_frames, cells, cells, int(rng.choice([1, 3])))
    if noise == "normal":
        values = np.float32(strength / 2) * rng.standard_normal(shape, dtype=np.float32)
    else:
        values = np.float32(strength) * (2 * rng.random(shape, dtype=np.float32) - 1)
        if noise == "binary":
            values = np.copysign(np.float32(strength), values)
        elif noise == "sparse":  # salt and pepper
            rate = _log_uniform(rng, 0.01, 0.3)
            values = np.sign(values) * (np.abs(values) > strength * (1 - rate)) * np.float32(strength)
    top, left = rng.integers(grain, size=2)
    return values.repeat(grain, axis=1).repeat(grain, axis=2)[:, top : top + SIZE, left : left + SIZE]


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())
