"""Differences of accuracy between the models of an ablation, next to the paper's."""

from collections.abc import Sequence
from pathlib import Path

from xvit.visualize.style import COLORS, TEXT_COLOR, new_figure, save_figure, style_axes

_LARGE = 5.0  # points: larger differences of the paper get a panel with a scale of their own

Row = tuple[str, float, float | None, float]


def plot_differences(rows: Sequence[Row], path: str | Path) -> None:
    """Draw one line per comparison: our difference with its interval as a dot and a bar, the paper's as a diamond.

    Args:
        rows: the name of the comparison; our difference in points of top-1; the half width of its 95 % interval, or
            None; the paper's difference.
        path: the PNG file to write.
    """
    groups = [[row for row in rows if row[3] >= _LARGE], [row for row in rows if row[3] < _LARGE]]
    groups = [group for group in groups if group]
    figure = new_figure(8.0, 0.36 * len(rows) + 0.9 * len(groups) + 0.3)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(group) + 1 for group in groups])
    for axes, group in zip(panels[:, 0], groups, strict=True):
        style_axes(axes, grid="x")
        axes.axvline(0, color=TEXT_COLOR, linewidth=0.8)
        for position, (_, points, margin, paper) in enumerate(group):
            axes.errorbar(points, position, xerr=margin, fmt="o", color=COLORS[0], markersize=6, capsize=3)
            axes.plot(paper, position, "D", color=COLORS[1], markersize=6, markerfacecolor="white")
        axes.set_yticks(range(len(group)), [name for name, *_ in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
    panels[-1, 0].set_xlabel("difference of top-1, points", fontsize=9)
    key = panels[0, 0]
    key.plot([], [], "o", color=COLORS[0], label="here: made clips, 95 % interval")
    key.plot([], [], "D", color=COLORS[1], markerfacecolor="white", label="the paper: ViT-B/16, Something-Something v2")
    figure.legend(*key.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path)
