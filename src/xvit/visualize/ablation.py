"""Tables of an ablation as small pictures side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xvit.visualize.style import COLORS, DPI, INK, PALE, plain_axes, save

_COLUMNS = 3


def plot_ablation(panels: Mapping[str, Sequence[tuple[str, Sequence[float], float | None]]], path: str | Path) -> None:
    """Draw accuracies: a picture a table, a line a row, a dot a seed, a bar at the mean; diamonds for the paper's.

    Args:
        panels: of each table, by its title: the rows' names, top-1 of each seed in %, the paper's top-1 in % or None.
        path: the PNG file to write.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.3 * rows + 0.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    everywhere = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in everywhere[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, lines) in zip(everywhere, panels.items(), strict=False):
        plain_axes(axes)
        for place, (_, ours, paper) in enumerate(lines):
            axes.plot([sum(ours) / len(ours)], [place], "|", color=COLORS[0], markersize=16, markeredgewidth=2)
            axes.plot(ours, [place] * len(ours), "o", color=COLORS[0], markersize=5, alpha=0.6)
            if paper is not None:
                axes.plot([paper], [place], "D", color=COLORS[1], markersize=5, markerfacecolor="white")
        axes.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlabel="top-1, %")
        axes.set_title(title, fontsize=10, color=INK)
        axes.grid(axis="x", color=PALE)
    first = everywhere[0]
    first.plot([], [], "o", color=COLORS[0], label="here, built-in data: a seed; bar: the mean")
    first.plot([], [], "D", color=COLORS[1], markerfacecolor="white", label="the paper's, SSv2, ViT-B/16")
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    save(figure, path)
