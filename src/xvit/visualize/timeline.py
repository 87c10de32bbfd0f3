"""A long video over time: segments, scores of the classes, frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MultipleLocator

from xvit.utils.errors import XViTError
from xvit.visualize.style import (
    DPI,
    INK,
    PALE,
    readable,
    save,
)

_CLASS_COLORS = (  # of classes side by side: neighbours far apart
    *("#2563eb", "#ea7317", "#16a34a", "#dc2626", "#9333ea", "#0891b2", "#ca8a04", "#db2777", "#64748b", "#84cc16"),
    *("#1e3a8a", "#92400e", "#0f766e", "#f472b6"),
)
_TICKS = (0.1, 0.5, 1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds from one to the next
_TIMELINE_CLASSES = 16
_TIMELINE_POINTS = 1000  # along the width: about one a pixel


def plot_timeline(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    path: str | Path,
    *,
    duration: float,
    rows: Mapping[str, Sequence[tuple[float, float, str]]],
    frames: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Draw a long video: segments as bands, the scores of each class below, frames of it at the bottom.

    Of the classes that no segment names, those are left out whose score is never 10 %, and beyond 16 classes in all
    those of the lowest scores.

    Args:
        times: (N,) seconds of the scores, ascending.
        scores: (N, K), in [0, 1].
        labels: the K class names.
        path: the PNG file to write.
        duration: seconds of the video.
        rows: a band each, by its name: segments as start and end in seconds, and label.
        frames: (n, H, W, 3) uint8: the middle one of each of n equal parts of the video.
        title: above it.

    Raises:
        XViTError: times, scores and labels that do not go together.
    """
    if scores.shape != (len(times), len(labels)) or not scores.size:
        raise XViTError(f"{len(times)} times, {len(labels)} labels, scores of shape {scores.shape}: expected (N, K)")
    shown = _timeline_classes(scores, labels, rows)
    colors = {labels[place]: _CLASS_COLORS[number % len(_CLASS_COLORS)] for number, place in enumerate(shown)}
    width = 12.0
    heights = [0.32 * len(rows), 0.24 * len(shown) + 0.1]
    if frames is not None:
        heights.append(0.84 * width / len(frames) * frames.shape[1] / frames.shape[2])
    layout = ConstrainedLayoutEngine(hspace=0.02, h_pad=0.04)
    figure = Figure(figsize=(width, sum(heights) + 1.0), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    bands, below, *strip = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
    _draw_bands(bands, rows, colors, duration)
    bands.set_title(title.replace("$", r"\$"), loc="left", color=INK, fontsize=11)
    _draw_scores(below, times, scores[:, shown], list(colors.items()), duration)
    if frames is not None:
        _draw_frames(strip[0], frames, duration)
    below.set_xlim(0, duration)
    last = strip[0] if strip else below
    last.xaxis.set_major_locator(MultipleLocator(next((step for step in _TICKS if duration / step <= 13), 36000)))
    last.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds, duration)))
    last.tick_params(axis="x", labelsize=9, colors=INK, length=3, labelbottom=True)
    save(figure, path)


def _timeline_classes(scores: np.ndarray, labels: Sequence[str], rows: Mapping[str, Any]) -> list[int]:
    """Places of the classes to show, in the order of `labels`."""
    named = {label for segments in rows.values() for _, _, label in segments}
    peaks = scores.max(axis=0)
    shown = [place for place, label in enumerate(labels) if label in named]
    others = [place for place in np.argsort(-peaks, kind="stable").tolist() if labels[place] not in named]
    room = max(_TIMELINE_CLASSES - len(shown), 0)
    shown += [place for place in others[:room] if peaks[place] >= 0.1]
    return sorted(shown or others[:1])


def _draw_bands(
    axes: Axes, rows: Mapping[str, Sequence[tuple[float, float, str]]], colors: Mapping[str, str], duration: float
) -> None:
    for row, segments in enumerate(rows.values()):
        axes.barh(row, duration, left=0, height=0.8, color="#f1f5f9")
        for start, end, label in segments:
            axes.barh(row, end - start, left=start, height=0.8, color=colors[label], edgecolor="white", linewidth=0.8)
            if len(label) <= 120 * (end - start) / duration:  # about 120 letters fit in along the whole width
                center: dict[str, Any] = {"ha": "center", "va": "center"}
                axes.text((start + end) / 2, row, readable(label), color="white", fontsize=8, **center)
    axes.set_yticks(range(len(rows)), [readable(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=9, colors=INK)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_scores(
    axes: Axes, times: np.ndarray, scores: np.ndarray, colors: Sequence[tuple[str, str]], duration: float
) -> None:
    """Each class a row, filled as high as its score; of a long video many scores share a point: their mean."""
    edges = np.concatenate([[0.0], (times[:-1] + times[1:]) / 2])  # each score up to the middle between it and the next
    groups = np.arange(0, len(times), -(-len(times) // _TIMELINE_POINTS))
    means = np.add.reduceat(scores, groups, axis=0, dtype=np.float64) / np.diff([*groups, len(times)])[:, None]
    x = np.append(edges[groups], duration)
    for row, (_, color) in enumerate(colors):
        height = 0.92 * np.append(means[:, row], means[-1, row])
        axes.axhline(row + 1, color=PALE, linewidth=0.6)
        axes.fill_between(x, row + 1, row + 1 - height, step="post", color=color, linewidth=0)
    names = [readable(label) for label, _ in colors]
    axes.set_yticks(np.arange(len(names)) + 0.6, [name if len(name) <= 28 else f"{name[:27]}…" for name in names])
    for text, (_, color) in zip(axes.get_yticklabels(), colors, strict=True):
        text.set_color(color)
    axes.set_ylim(len(colors), -0.1)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_frames(axes: Axes, frames: np.ndarray, duration: float) -> None:
    """Each frame in its part of the width."""
    part = duration / len(frames)
    for number, picture in enumerate(frames):
        extent = ((number + 0.02) * part, (number + 0.98) * part, 0, 1)
        axes.imshow(picture, extent=extent, aspect="auto", interpolation="antialiased")
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)


def _clock(seconds: float, duration: float) -> str:
    """m:ss, or h:mm:ss of a long video."""
    whole = round(seconds)
    if duration < 12:
        return f"{seconds:g} s"
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if duration >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"
