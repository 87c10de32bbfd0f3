"""Tables of an ablation as small pictures: ours, and beside them the paper's figures on a scale of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xvit.visualize.style import COLORS, DPI, INK, PALE, plain_axes, save

_COLUMNS = 2


def plot_ablation(panels: Mapping[str, Sequence[tuple[str, Sequence[float], float | None]]], path: str | Path) -> None:
    """Draw accuracies: a picture a table, a line a row, a dot a seed, a bar at the mean; diamonds for the paper's.

    Args:
        panels: of each table, by its title: the rows' names, top-1 of each seed in %, the paper's top-1 in % or None.
        path: the PNG file to write.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.0 * columns, 2.3 * rows + 0.4), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    for part, (title, lines) in zip(parts, panels.items(), strict=False):
        here, beside = part.subplots(1, 2, width_ratios=(2, 1), sharey=True)
        for place, (_, ours, paper) in enumerate(lines):
            here.plot([sum(ours) / len(ours)], [place], "|", color=COLORS[0], markersize=16, markeredgewidth=2)
            here.plot(ours, [place] * len(ours), "o", color=COLORS[0], markersize=5, alpha=0.6)
            if paper is not None:
                beside.plot([paper], [place], "D", color=COLORS[1], markersize=5, markerfacecolor="white")
        for axes, label in ((here, "top-1 here, %"), (beside, "the paper's, %")):
            plain_axes(axes)
            axes.set_xlabel(label, fontsize=9)
            axes.margins(x=0.12)
            axes.xaxis.set_major_locator(MaxNLocator(5 if axes is here else 3))
            axes.grid(axis="x", color=PALE)
        here.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        here.set_ylim(len(lines) - 0.4, -0.6)
        beside.tick_params(axis="y", length=0, labelleft=False)
        if not beside.has_data():
            beside.set_visible(False)
        part.suptitle(title, fontsize=10, color=INK)
    key = parts[0].axes[0]
    key.plot([], [], "o", color=COLORS[0], label="here, built-in data: a seed; bar: the mean")
    key.plot([], [], "D", color=COLORS[1], markerfacecolor="white", label="the paper's, SSv2, ViT-B/16 (other scale)")
    figure.legend(*key.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    save(figure, path)
