"""A long video over time: segments, scores of the classes, frames."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MultipleLocator

from xvit.utils.errors import XViTError
from xvit.visualize.style import GRID_COLOR, TEXT_COLOR, display_name, new_figure, plain_text, save_figure

Bands = Mapping[str, Sequence[tuple[float, float, str]]]  # by name: segments as start and end in seconds, and label

_CLASS_COLORS = (  # neighbours differ clearly
    *("#2563eb", "#ea7317", "#16a34a", "#dc2626", "#9333ea", "#0891b2", "#ca8a04", "#db2777", "#0ea5e9", "#84cc16"),
    *("#1e3a8a", "#92400e", "#0f766e", "#f472b6"),
)
_IGNORED_COLOR, _STILL_COLOR = "#94a3b8", "#eef2f7"
_TICKS = (0.1, 0.5, 1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks
_MAX_CLASSES = 16
_MAX_POINTS = 1000  # along the width, about one per pixel


def plot_timeline(
    times: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    duration: float,
    bands: Bands,
    ignored: Collection[str] = (),
    still: Sequence[tuple[float, float]] = (),
    frames: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Draw a long video: segments as bands, the scores of each class below them, frames at the bottom.

    Classes without a segment are left out if their score never reaches 10 %. If there are more than 16 classes, those
    of them with the lowest scores are left out, too.

    Args:
        times: (N,) seconds of the scores, ascending.
        scores: (N, K), in [0, 1].
        class_names: names of the K classes.
        path: the PNG file to write.
        duration: seconds of the video.
        bands: rows of segments by name, such as "prediction"; a segment is its start and end in seconds and its label.
        ignored: classes that are no events; their scores are grey.
        still: start and end, in seconds, of stretches without motion; they are shaded.
        frames: (n, H, W, 3) uint8: the middle frame of each of n equal parts of the video.
        title: of the plot.

    Raises:
        XViTError: times, scores and class names whose numbers do not match.
    """
    if scores.shape != (len(times), len(class_names)) or not scores.size:
        raise XViTError(
            f"{len(times)} times, {len(class_names)} class names, scores of shape {scores.shape}: expected (N, K)"
        )
    shown = _select_classes(scores, class_names, bands)
    colors = {class_names[index]: _CLASS_COLORS[rank % len(_CLASS_COLORS)] for rank, index in enumerate(shown)}
    colors |= dict.fromkeys(colors.keys() & set(ignored), _IGNORED_COLOR)
    width = 12.0
    heights = [0.32 * len(bands), 0.24 * len(shown) + 0.1]
    if frames is not None:
        heights.append(0.84 * width / len(frames) * frames.shape[1] / frames.shape[2])
    figure = new_figure(width, sum(heights) + 1.0, layout=ConstrainedLayoutEngine(hspace=0.02, h_pad=0.04))
    parts = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
    _draw_bands(parts[0], bands, colors, duration)
    parts[0].set_title(plain_text(title), loc="left", color=TEXT_COLOR, fontsize=11)
    _draw_scores(parts[1], times, scores[:, shown], colors, ignored, duration)
    _shade(parts[1], still)
    if frames is not None:
        _draw_frames(parts[2], frames, duration)
    for axes in parts:
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="x", length=0, labelbottom=False)
    _label_time(parts[-1], duration)
    save_figure(figure, path)


def _label_time(axes: Axes, duration: float) -> None:
    """Label the horizontal axis of the lowest part with times."""
    axes.set_xlim(0, duration)
    axes.xaxis.set_major_locator(MultipleLocator(next((step for step in _TICKS if duration / step <= 13), 36000)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _format_time(seconds, duration)))
    axes.tick_params(axis="x", labelsize=9, colors=TEXT_COLOR, length=3, labelbottom=True)


def _select_classes(scores: np.ndarray, class_names: Sequence[str], bands: Bands) -> list[int]:
    """Indices of the classes to show, ascending."""
    labels = {label for segments in bands.values() for _, _, label in segments}
    peaks = scores.max(axis=0)
    shown = [index for index, name in enumerate(class_names) if name in labels]
    others = [index for index in np.argsort(-peaks, kind="stable").tolist() if class_names[index] not in labels]
    shown += [index for index in others[: max(_MAX_CLASSES - len(shown), 0)] if peaks[index] >= 0.1]
    return sorted(shown or others[:1])


def _draw_bands(axes: Axes, bands: Bands, colors: Mapping[str, str], duration: float) -> None:
    for row, segments in enumerate(bands.values()):
        axes.barh(row, duration, left=0, height=0.8, color="#f1f5f9")
        for start, end, label in segments:
            axes.barh(row, end - start, left=start, height=0.8, color=colors[label], edgecolor="white", linewidth=0.8)
            if len(label) <= 120 * (end - start) / duration:  # about 120 characters fit into the width
                center: dict[str, Any] = {"ha": "center", "va": "center"}
                axes.text((start + end) / 2, row, display_name(label), color="white", fontsize=8, **center)
    axes.set_yticks(range(len(bands)), [display_name(name) for name in bands])
    axes.set_ylim(len(bands) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=9, colors=TEXT_COLOR)


def _shade(axes: Axes, still: Sequence[tuple[float, float]]) -> None:
    """Shade the stretches without motion, behind everything else."""
    for start, end in still:
        axes.axvspan(start, end, color=_STILL_COLOR, linewidth=0, zorder=0)
    if still:
        start, end = max(still, key=lambda stretch: stretch[1] - stretch[0])
        center: dict[str, Any] = {"ha": "center", "va": "bottom"}
        axes.text((start + end) / 2, 0.0, "no motion", color=_IGNORED_COLOR, fontsize=8, **center)


def _draw_scores(
    axes: Axes,
    times: np.ndarray,
    scores: np.ndarray,
    colors: Mapping[str, str],
    ignored: Collection[str],
    duration: float,
) -> None:
    """One row per class, filled up to its score. In a long video each point is the mean of several scores."""
    edges = np.concatenate([[0.0], (times[:-1] + times[1:]) / 2])  # a score holds until halfway to the next one
    groups = np.arange(0, len(times), -(-len(times) // _MAX_POINTS))
    means = np.add.reduceat(scores, groups, axis=0, dtype=np.float64) / np.diff([*groups, len(times)])[:, None]
    x = np.append(edges[groups], duration)
    for row, color in enumerate(colors.values()):
        height = 0.92 * np.append(means[:, row], means[-1, row])
        axes.axhline(row + 1, color=GRID_COLOR, linewidth=0.6)
        axes.fill_between(x, row + 1, row + 1 - height, step="post", color=color, linewidth=0)
    names = [display_name(name, 28) + (" (ignored)" if name in ignored else "") for name in colors]
    axes.set_yticks(np.arange(len(colors)) + 0.6, names)
    for text, color in zip(axes.get_yticklabels(), colors.values(), strict=True):
        text.set_color(color)
    axes.set_ylim(len(colors), -0.1)
    axes.tick_params(axis="y", length=0, labelsize=8.5)


def _draw_frames(axes: Axes, frames: np.ndarray, duration: float) -> None:
    """Each frame above its part of the time axis."""
    part = duration / len(frames)
    for index, frame in enumerate(frames):
        extent = ((index + 0.02) * part, (index + 0.98) * part, 0, 1)
        axes.imshow(frame, extent=extent, aspect="auto", interpolation="antialiased")
    axes.set(ylim=(0, 1), yticks=[])


def _format_time(seconds: float, duration: float) -> str:
    """Seconds for a short video, m:ss for longer ones, h:mm:ss from one hour."""
    if duration < 12:
        return f"{seconds:g} s"
    rounded = round(seconds)
    hours = f"{rounded // 3600}:{rounded // 60 % 60:02d}" if duration >= 3600 else f"{rounded // 60}"
    return f"{hours}:{rounded % 60:02d}"
