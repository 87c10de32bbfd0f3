"""What all pictures share: colours, sizes, axes, writing a file."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLORS = ("#2563eb", "#ea7317", "#64748b", "#16a34a", "#9333ea", "#dc2626")
INK, PALE, RIGHT, WRONG = "#1e293b", "#e2e8f0", "#15803d", "#c81e1e"
DPI = 110
NAMED_CLASSES = 60  # beyond, class names on an axis are dust


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#94a3b8")
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def legend_above(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    room = 14 * figure.get_figwidth() // (max(map(len, labels)) + 7)  # about 14 letters an inch; 7 for the sample
    columns = int(np.clip(room, 1, len(labels)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def color_of(number: int) -> str:
    return COLORS[number % len(COLORS)]


def readable(label: str) -> str:
    return label.replace("_", " ").replace("$", r"\$")  # a dollar would start a formula


def save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
