"""The results of a benchmark as a picture: time, memory and multiply-adds of each model against the number of frames.

Small multiples: one column per backbone, and one panel for each of the three. Each line is labelled at its end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from xvit.visualize.style import TEXT_COLOR, new_figure, plain_text, save_figure, style_axes

# Colours that people with any colour vision can tell apart, dark enough for text (Okabe and Ito; Tol).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#332288", "#8a6d00")
_GREYS = ("#475569", "#64748b", "#8a8f98")
_OUR_MARKERS, _PEER_MARKERS = "os", "D^vs"
_FONT_SIZE = 9
_AXES_WIDTH, _MIN_AXES_HEIGHT = 2.9, 2.0  # inches, as all below
_LABEL_HEIGHT = 0.165  # with the gap to the next label
_CHARACTER_WIDTH = 0.08
_LEFT, _ABOVE, _BELOW, _TITLE = 0.6, 0.3, 0.5, 0.6  # space for the axis' numbers, titles and names


@dataclass(frozen=True)
class CostPoint:
    """What a model costs with one number of frames.

    Args:
        frames: T.
        ms_per_frame: milliseconds.
        peak_mb: peak memory, in 10^6 bytes.
        gmacs_per_frame: 10^9 multiply-adds of a forward pass.
    """

    frames: int
    ms_per_frame: float
    peak_mb: float
    gmacs_per_frame: float


Curves = Mapping[str, Sequence[CostPoint]]
_PANELS = {
    "ms_per_frame": "Time, ms per frame",
    "peak_mb": "Peak memory, MB",
    "gmacs_per_frame": "10⁹ MACs per frame",
}


def plot_benchmark(tables: Mapping[str, Curves], path: str | Path, title: str) -> None:
    """Draw the costs of models; all axes are logarithmic.

    Args:
        tables: by title, then by model. Models whose names begin with "xvit" have colours, "image model" is black, and
            the others are grey.
        path: the PNG file to write.
        title: of the picture.
    """
    save_figure(draw_benchmark(tables, title), path)


def draw_benchmark(tables: Mapping[str, Curves], title: str) -> Figure:
    """The picture of `plot_benchmark`, not yet written."""
    num_labels = max(len(curves) for curves in tables.values())
    longest = max(len(model) for curves in tables.values() for model in curves)
    height = max(_MIN_AXES_HEIGHT, num_labels * _LABEL_HEIGHT)
    column_width = _LEFT + 1.12 * _AXES_WIDTH + longest * _CHARACTER_WIDTH
    row_height = _ABOVE + height + _BELOW
    width, total = column_width * len(tables), row_height * len(_PANELS) + _TITLE
    figure = new_figure(width, total, layout=None)
    figure.text(_LEFT / width, 1 - 0.15 / total, title, fontsize=12, weight="bold", color=TEXT_COLOR, va="center")
    for column, (table_title, curves) in enumerate(tables.items()):
        left = column * column_width + _LEFT
        y = 1 - 0.45 / total
        figure.text(left / width, y, plain_text(table_title), fontsize=10, weight="bold", color=TEXT_COLOR, va="center")
        for row, (field, panel_title) in enumerate(_PANELS.items()):
            bottom = total - _TITLE - row * row_height - _ABOVE - height
            axes = figure.add_axes((left / width, bottom / total, _AXES_WIDTH / width, height / total))
            axes.set_title(panel_title, loc="left", fontsize=10, color=TEXT_COLOR)
            _draw_panel(axes, curves, field)
            ends = {name: (points[-1].frames, getattr(points[-1], field)) for name, points in curves.items()}
            _label_lines(axes, ends, _LABEL_HEIGHT / height)
    return figure


def _draw_panel(axes: Axes, curves: Curves, field: str) -> None:
    styles = line_styles(list(curves))
    axes.set_autoscale_on(False)  # the limits are set below; of a single value, matplotlib's would be singular
    for model, points in curves.items():
        x, y = [point.frames for point in points], [getattr(point, field) for point in points]
        axes.plot(x, y, markersize=4, **styles[model])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    frames = sorted({point.frames for points in curves.values() for point in points})
    axes.set_xlim(frames[0] / 1.15, frames[-1] * 1.15)
    axes.set_xticks(frames, [str(number) for number in frames])
    values = [getattr(point, field) for points in curves.values() for point in points]
    low, high = min(values) / 1.08, max(values) * 1.08
    axes.set_ylim(low, high)
    ticks = plain_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:,g}" if tick < 1e6 else f"{tick:,.0f}" for tick in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("T, frames per clip", fontsize=_FONT_SIZE, color=TEXT_COLOR)
    style_axes(axes, grid="y")


def plain_ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high` for a logarithmic axis, from 3 to 8 of them where possible."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tenths, hundredths = tuple(np.arange(10, 100) / 10), tuple(np.arange(100, 1000) / 100)
    choices = (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.2, 1.4, 1.6, 1.8, *range(2, 10)),
        tenths,
        hundredths,
    )
    best: list[float] = []
    for digits in choices:
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 8:
            return best if len(best) >= 2 else ticks[:: math.ceil(len(ticks) / 8)]
        best = ticks
        if len(ticks) >= 3:
            return ticks
    return best


def _label_lines(axes: Axes, ends: Mapping[str, tuple[float, float]], gap: float) -> None:
    """Write the models' names in a column to the right of the axes, `gap` apart, each joined to the end of its line."""
    styles = line_styles(list(ends))
    to_axes = axes.transData + axes.transAxes.inverted()
    points = {name: to_axes.transform(end) for name, end in ends.items()}
    positions = spread([y for _, y in points.values()], gap)
    for (name, (x, y)), position in zip(points.items(), positions, strict=True):
        color = styles[name]["color"]
        way = (
            [y, y, position] if x > 0.9 else [y, position, position]
        )  # others end before: a straight line to the label
        line = {"linestyle": "-" if x > 0.9 else ":", "linewidth": 0.7, "color": color, "alpha": 0.7}
        axes.plot([x, 1.02, 1.07], way, transform=axes.transAxes, clip_on=False, **line)
        text = {"color": color, "fontsize": _FONT_SIZE, "va": "center"}
        axes.text(1.09, position, plain_text(name), transform=axes.transAxes, **text)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions as near as possible to the wanted ones (least squares), at least `gap` apart and in the same order.

    They stay between 0 and 1 if there is room for all of them.
    """
    if not wanted:
        return []
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Without the gaps below each, positions must only not decrease: neighbours that do are merged into their mean.
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, size = wanted[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), size + count
        blocks.append((mean, size))
    highest = max(1 - (len(wanted) - 1) * gap, 0)
    flat = [min(max(mean, 0), highest) for mean, size in blocks for _ in range(size)]
    result = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        result[index] = flat[rank] + rank * gap
    return result


def line_styles(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each model: ours in colour, peers in grey."""
    dashed = {"linestyle": (0, (3, 2)), "zorder": 4}  # so that a line of ours below it can be seen
    styles: dict[str, dict[str, Any]] = {"image model": {"color": "black", "marker": "o", "linewidth": 1.4, **dashed}}
    ours = [model for model in models if model.startswith("xvit")]
    for index, model in enumerate(ours):
        marker = _OUR_MARKERS[index // len(_COLORS) % len(_OUR_MARKERS)]
        styles[model] = {"color": _COLORS[index % len(_COLORS)], "marker": marker, "linewidth": 1.8, "zorder": 3}
    for index, model in enumerate(model for model in models if model not in styles):
        color, marker = _GREYS[index % len(_GREYS)], _PEER_MARKERS[index % len(_PEER_MARKERS)]
        styles[model] = {"color": color, "marker": marker, "linewidth": 1.2}
    return styles
