"""Why a model decided, as a picture and as a short video: frames under a map of relevance, and a bar per frame."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from xvit.utils.errors import XViTError
from xvit.visualize.style import COLORS, TEXT_COLOR, WRONG_COLOR, new_figure, plain_text, save_figure, style_axes

FOR_COLOR, AGAINST_COLOR = COLORS[1], COLORS[0]  # relevance above and below 0: told apart by colour-blind people, too
MIN_SCALE = 0.01  # of the logit: rounding is far below, and must not be drawn as if it were a result
_MAX_COLUMNS = 8  # frames in a row of the picture
_OPACITY = 0.75  # of the most relevant patch
_MIN_SIDE = 320  # pixels of a frame in the video
_BARS_HEIGHT = 48  # pixels below it
_HOLD = 1.0  # seconds for which the last frame of the video stands still


def plot_explanation(
    frames: np.ndarray,
    relevance: np.ndarray,
    times: Sequence[float],
    path: str | Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    warning: str = "",
) -> None:
    """Draw the frames with their relevance, and the sum over each frame as a bar below it.

    Args:
        frames: (T, H, W, 3) uint8.
        relevance: (T, rows, columns) in units of the logit. Orange patches speak for the class, blue ones against it.
        times: (T,) seconds.
        path: the PNG file to write.
        title: a line above the frames.
        notes: lines below it.
        warning: a line in red, such as why the picture should not be trusted; empty for none.

    Raises:
        XViTError: shapes that do not match.
    """
    shown = overlay(frames, relevance)
    T = len(frames)
    rows, columns = math.ceil(T / _MAX_COLUMNS), min(T, _MAX_COLUMNS)
    width = max(1.25 * columns, 5.0)
    lines = [(title, TEXT_COLOR, 11), *((note, TEXT_COLOR, 9) for note in notes)]
    if warning:
        lines.append((warning, WRONG_COLOR, 9))
    head, side = 0.24 * len(lines) + 0.15, width / columns
    height = head + rows * (side + 0.95)
    figure = new_figure(width, height, layout=None)
    for number, (text, color, size) in enumerate(lines):
        y = 1 - (0.16 + 0.24 * number) / height
        weight = "bold" if size > 9 else None
        figure.text(0.01, y, plain_text(text), color=color, fontsize=size, va="center", weight=weight)
    grid = figure.add_gridspec(
        2 * rows,
        columns,
        height_ratios=[side, 0.6] * rows,
        left=0.07,
        right=0.99,
        top=1 - head / height,
        bottom=0.28 / height,
        wspace=0.05,
        hspace=0.12,
    )
    sums = relevance.sum(axis=(1, 2))
    limits = _limits(sums)
    for index, (frame, value, time) in enumerate(zip(shown, sums, times, strict=True)):
        row, column = divmod(index, _MAX_COLUMNS)
        axes = figure.add_subplot(grid[2 * row, column])
        axes.imshow(frame, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _plot_bar(figure.add_subplot(grid[2 * row + 1, column]), value, limits, f"{time:.2f} s", ticks=not column)
    save_figure(figure, path)


def _plot_bar(axes: Any, value: float, limits: tuple[float, float], label: str, *, ticks: bool) -> None:
    axes.bar([0], [value], width=0.7, color=FOR_COLOR if value > 0 else AGAINST_COLOR)
    axes.axhline(0, color=TEXT_COLOR, linewidth=0.8)
    style_axes(axes)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(-0.5, 0.5), ylim=limits, xticks=[0], xticklabels=[label])
    axes.tick_params(axis="x", length=0, labelsize=8)
    if ticks:
        axes.tick_params(axis="y", labelsize=7)
    else:
        axes.set_yticks([])


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The lower and the upper end of an axis for bars of these values."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if high - low < MIN_SCALE:
        low, high = (low, low + MIN_SCALE) if -low < high else (high - MIN_SCALE, high)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def overlay(frames: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 under the colours of their relevance (T, rows, columns): orange for, blue against."""
    if frames.ndim != 4 or relevance.ndim != 3 or len(frames) != len(relevance):
        expected = "expected (T, H, W, 3) and (T, rows, columns)"
        raise XViTError(f"frames of shape {frames.shape}, relevance of shape {relevance.shape}: {expected}")
    height, width = frames.shape[1:3]
    rows, columns = (
        np.arange(size) * cells // size for size, cells in zip((height, width), relevance.shape[1:], strict=True)
    )
    strength = relevance / max(float(np.abs(relevance).max()), MIN_SCALE)  # in [-1, 1]
    pixels = strength[:, rows][:, :, columns, None]  # (T, H, W, 1)
    color = np.where(pixels > 0, _rgb(FOR_COLOR), _rgb(AGAINST_COLOR))
    opacity = _OPACITY * np.sqrt(np.abs(pixels))
    grey = frames.mean(axis=-1, keepdims=True)  # so that the colours are those of the relevance
    return np.rint(grey + opacity * (color - grey)).astype(np.uint8)


def write_explanation_video(
    frames: np.ndarray, relevance: np.ndarray, times: Sequence[float], path: str | Path
) -> None:
    """Write an animation: each frame beside itself under its relevance, and the bars of all frames below.

    Args:
        frames, relevance, times: as in `plot_explanation`.
        path: a file that ends in .gif or .mp4. The frames follow one another at their own distance in time, but at
            least two and at most 25 a second.
    """
    shown = np.stack(
        [_animation_frame(frames, overlay(frames, relevance), relevance, index) for index in range(len(frames))]
    )
    spacing = float(np.median(np.diff(times))) if len(times) > 1 else 0.5
    seconds = min(max(spacing, 0.04), 0.5)
    if Path(path).suffix == ".gif":
        images = [Image.fromarray(frame) for frame in shown]
        durations = [round(1000 * seconds)] * (len(images) - 1) + [round(1000 * (seconds + _HOLD))]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
        return
    held = np.concatenate([shown, np.repeat(shown[-1:], round(_HOLD / seconds), axis=0)])
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(1 / seconds).limit_denominator(1001))
        stream.height, stream.width = held.shape[1:3]
        stream.pix_fmt = "yuv420p"  # supported by every player and browser
        for frame in held:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _animation_frame(frames: np.ndarray, shown: np.ndarray, relevance: np.ndarray, index: int) -> np.ndarray:
    """One picture (H, W, 3) of the animation, of even height and width."""
    height, width = frames.shape[1:3]
    zoom = math.ceil(_MIN_SIDE / min(height, width))
    pair = np.concatenate([frames[index], shown[index]], axis=1).repeat(zoom, axis=0).repeat(zoom, axis=1)
    bars = _draw_bars(relevance.sum(axis=(1, 2)), index, pair.shape[1])
    picture = np.concatenate([pair, bars])
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def _draw_bars(values: np.ndarray, current: int, width: int) -> np.ndarray:
    """Bars of all frames (height, width, 3), the current one in full colour."""
    canvas = np.full((_BARS_HEIGHT, width, 3), 255, np.uint8)
    low, high = _limits(values)
    levels = np.rint((high - np.append(values, 0.0)) / (high - low) * (_BARS_HEIGHT - 1)).astype(int)
    edges = np.linspace(0, width, len(values) + 1).astype(int)
    for index, value in enumerate(values):
        top, bottom = sorted((levels[index], levels[-1]))
        color = _rgb(FOR_COLOR if value > 0 else AGAINST_COLOR)
        faded = color if index == current else 255 - (255 - color) * 0.35
        canvas[top : bottom + 1, edges[index] + 2 : edges[index + 1] - 2] = np.rint(faded)
    return canvas


def _rgb(color: str) -> np.ndarray:
    """(3,) in [0, 255], of a colour such as #2563eb."""
    return np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)], dtype=np.float64)
