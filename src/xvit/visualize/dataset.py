"""A data set: samples per class, and histograms of other values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from xvit.visualize import style


def plot_dataset(
    counts: Mapping[str, Mapping[str, int]], values: Mapping[str, Sequence[float]], path: str | Path, *, title: str = ""
) -> None:
    """Draw the samples per class as bars, one colour per split, and beside them a histogram of each list of values.

    Args:
        counts: samples of each split (train, val), of each class; all splits have the same classes.
        values: lists of numbers by name, such as "frames per second".
        path: the PNG file to write.
        title: above the bars.
    """
    totals = {name: sum(split.get(name, 0) for split in counts.values()) for split in counts.values() for name in split}
    classes = sorted(totals, key=lambda name: (-totals[name], name))
    height = 5.5
    if len(classes) <= style.MAX_NAMED_CLASSES:
        height = float(np.clip(0.21 * len(classes) + 1.2, 1.9 * max(len(values), 1) + 0.6, 14))
    figure = style.new_figure(10.5, height)
    grid = figure.add_gridspec(max(len(values), 1), 2, width_ratios=(1.7, 1))
    axes = figure.add_subplot(grid[:, 0])
    stacks = {split: np.array([counts[split].get(name, 0) for name in classes]) for split in counts}
    if len(classes) <= style.MAX_NAMED_CLASSES:
        _draw_named_classes(axes, stacks, classes)
    else:
        _draw_many_classes(axes, stacks, len(classes))
    axes.set_title(style.plain_text(title), loc="left", color=style.TEXT_COLOR, fontsize=11)
    if len(counts) > 1:
        style.legend_above(figure, axes)
    for row, (name, numbers) in enumerate(values.items()):
        _draw_histogram(figure.add_subplot(grid[row, 1]), name, numbers)
    style.save_figure(figure, path)


def _draw_named_classes(axes: Axes, stacks: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    """One horizontal bar per class."""
    style.style_axes(axes, grid="x")
    left = np.zeros(len(classes))
    for index, (split, widths) in enumerate(stacks.items()):
        bar_height = min(0.78, 0.1 * len(classes))
        axes.barh(range(len(classes)), widths, bar_height, left=left, color=style.color_of(index), label=split)
        left = left + widths
    axes.set_yticks(range(len(classes)), [style.display_name(name, 44) for name in classes])
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(classes) - 0.4, -0.6), xlabel="samples")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for row in np.flatnonzero(left == 0):
        axes.annotate(
            "none", (0, row), (4, 0), textcoords="offset points", va="center", color=style.WRONG_COLOR, fontsize=8
        )


def _draw_many_classes(axes: Axes, stacks: Mapping[str, np.ndarray], num_classes: int) -> None:
    """An area over the classes, without their names."""
    style.style_axes(axes, grid="y")
    colors = [style.color_of(index) for index in range(len(stacks))]
    axes.stackplot(range(num_classes), *stacks.values(), labels=stacks, colors=colors, step="mid", linewidth=0)
    axes.set(xlabel=f"{num_classes} classes, the most frequent first", ylabel="samples", ylim=(0, None))
    axes.set_xlim(-0.5, num_classes - 0.5)


def _draw_histogram(axes: Axes, name: str, numbers: Sequence[float]) -> None:
    style.style_axes(axes, grid="y")
    low, high = (min(numbers), max(numbers)) if len(numbers) else (0.0, 0.0)
    # half a bar at each end, so that the smallest and the largest value lie in the middle of a bar
    margin = (high - low) / 58 if high > low else max(0.1 * abs(high), 0.5)
    axes.hist(numbers, bins=30 if high > low else 31, range=(low - margin, high + margin), color=style.COLORS[0])
    axes.set(xlabel=style.plain_text(name), ylabel="files")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
