"""Colours, sizes, axes and file output of all plots."""

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

from xvit.utils.text import printable

COLORS = ("#2563eb", "#ea7317", "#64748b", "#16a34a", "#9333ea", "#dc2626")
TEXT_COLOR, GRID_COLOR, CORRECT_COLOR, WRONG_COLOR = "#1e293b", "#e2e8f0", "#15803d", "#c81e1e"
MAX_NAMED_CLASSES = 60  # beyond, class names on an axis are too small to read


def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | LayoutEngine | None = "constrained"
) -> Figure:
    """An empty figure; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Axes without the upper and the right line, and with grid lines at the ticks of `grid`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#94a3b8")
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT_COLOR, labelsize=9)
    if grid is not None:
        axes.grid(axis=grid, color=GRID_COLOR)


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put the legend of the axes above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    # about 14 characters fit into an inch; the line sample takes 7
    max_columns = 14 * figure.get_figwidth() // (max(map(len, labels)) + 7)
    columns = int(np.clip(max_columns, 1, len(labels)))
    names = list(map(plain_text, labels))
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def color_of(index: int) -> str:
    """The colour of the n-th series."""
    return COLORS[index % len(COLORS)]


def display_name(label: str, max_length: int | None = None) -> str:
    """A label as text in a plot, shortened to `max_length` characters."""
    name = printable(label).replace("_", " ")
    if max_length is not None and len(name) > max_length:
        name = f"{name[: max_length - 1]}…"
    return plain_text(name)


def plain_text(text: str) -> str:
    """Text in a plot that may be foreign; a dollar sign starts no formula."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG file, the same bytes at any time."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # letters in a class name that the font lacks
        figure.savefig(path, facecolor="white", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
