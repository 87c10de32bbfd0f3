"""The tables of an ablation as plots, next to the results in the paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from xvit.visualize.style import COLORS, TEXT_COLOR, new_figure, save_figure, style_axes

Row = tuple[str, Sequence[float], float | None]


def plot_ablation(panels: Mapping[str, Sequence[Row]], path: str | Path) -> None:
    """Draw one panel per table and one line per row: our accuracies, and those of the paper on their own scale.

    A dot is one seed, a bar the mean of the seeds, a diamond the paper's result.

    Args:
        panels: the rows of each table, by its title: name, top-1 of each seed in %, the paper's top-1 in % or None.
        path: the PNG file to write.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(6.0 * columns, 2.3 * rows + 0.4)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    for part, (title, lines) in zip(parts, panels.items(), strict=False):
        _draw_panel(part, title, lines)
    key = parts[0].axes[0]
    key.plot([], [], "o", color=COLORS[0], label="ours, synthetic data: one seed; bar: mean")
    key.plot([], [], "D", color=COLORS[1], markerfacecolor="white", label="paper, SSv2, ViT-B/16 (other scale)")
    figure.legend(*key.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_panel(part: SubFigure, title: str, rows: Sequence[Row]) -> None:
    ours, paper = part.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    for position, (_, accuracies, published) in enumerate(rows):
        mean = sum(accuracies) / len(accuracies)
        ours.plot([mean], [position], "|", color=COLORS[0], markersize=16, markeredgewidth=2)
        ours.plot(accuracies, [position] * len(accuracies), "o", color=COLORS[0], markersize=5, alpha=0.6)
        if published is not None:
            paper.plot([published], [position], "D", color=COLORS[1], markersize=5, markerfacecolor="white")
    for axes, label, ticks in ((ours, "our top-1, %", 5), (paper, "paper's top-1, %", 3)):
        style_axes(axes, grid="x")
        axes.set_xlabel(label, fontsize=9)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(ticks))
    ours.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ours.set_ylim(len(rows) - 0.4, -0.6)
    paper.tick_params(axis="y", length=0, labelleft=False)
    if not paper.has_data():
        paper.set_visible(False)
    part.suptitle(title, fontsize=10, color=TEXT_COLOR)
