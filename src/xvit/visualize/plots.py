"""Pictures of results: plain arrays in, PNG files out. Matplotlib without its global state: safe in any thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xvit.utils.errors import XViTError
from xvit.visualize.ablation import plot_ablation as plot_ablation
from xvit.visualize.style import (
    COLORS,
    DPI,
    INK,
    NAMED_CLASSES,
    PALE,
    RIGHT,
    WRONG,
    color_of,
    legend_above,
    new_figure,
    plain_axes,
    readable,
    save,
)
from xvit.visualize.timeline import plot_timeline as plot_timeline


@dataclass(frozen=True)
class Strip:
    """One row of a filmstrip: the frames that the model saw, and what it said.

    Args:
        frames: (T, H, W, 3) uint8.
        truth: the right class.
        prediction: the class named.
        score: the model's, in [0, 1].

    Raises:
        XViTError: frames of another shape or type.
    """

    frames: np.ndarray
    truth: str
    prediction: str
    score: float

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise XViTError(f"frames of {self.frames.dtype} {self.frames.shape}: expected uint8 (T, H, W, 3)")


def plot_confusion(matrix: Any, labels: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Draw a confusion matrix, each row as shares of its true class.

    Args:
        matrix: (K, K) counts; rows are the truth, columns the predictions.
        labels: the K class names.
        path: the PNG file to write.
        title: above it.

    Raises:
        XViTError: a matrix that is not K x K.
    """
    counts = np.asarray(matrix, dtype=float)
    K = len(labels)
    if counts.shape != (K, K):
        raise XViTError(f"confusion matrix of shape {counts.shape} for {K} labels: expected ({K}, {K})")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.30 * K + 2.6, 4.5, 12))
    figure, axes = new_figure(side + 0.8, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    axes.spines[:].set_visible(False)
    if K <= NAMED_CLASSES:
        names = [readable(label) for label in labels]
        axes.set_xticks(range(K), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(K), names)
        axes.tick_params(length=0, labelsize=8)
    if K <= 30:
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            ink = "white" if share > 0.55 else INK
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=7)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class")
    save(figure, path)


def plot_per_class(
    accuracy: Mapping[str, Mapping[str, float]], path: str | Path, *, bound: tuple[str, float] | None = None
) -> None:
    """Draw accuracies of classes as bars, one group a class, one bar a model.

    Args:
        accuracy: of each model, of each class, in [0, 1]. The first model's classes name the groups.
        path: the PNG file to write.
        bound: the name of a level and the level, drawn as a line.
    """
    models = list(accuracy)
    classes = list(accuracy[models[0]])
    height = 0.8 / len(models)
    figure, axes = new_figure(8, 1.4 + (0.10 + 0.12 * len(models)) * max(len(classes), 6))
    places = np.arange(len(classes))
    for number, model in enumerate(models):
        values = [accuracy[model].get(name, float("nan")) for name in classes]
        axes.barh(places + (number + 0.5) * height - 0.4, values, height, color=color_of(number), label=model)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6), xlabel="accuracy")
    axes.set_yticks(places, [readable(name) for name in classes])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", color=PALE)
    if bound is not None:
        axes.axvline(bound[1], color=INK, linewidth=1, linestyle="--", label=bound[0])
    axes.tick_params(axis="y", length=0)
    if len(models) > 1 or bound is not None:
        legend_above(figure, axes)
    save(figure, path)


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, *, bound: tuple[str, float] | None = None
) -> None:
    """Draw the course of trainings: accuracy on held-out videos, and loss on the training ones.

    Args:
        runs: the rows of each training's metrics.jsonl: "epoch" and any of "top1" (in [0, 1]) and "loss".
        path: the PNG file to write.
        bound: the name of an accuracy and its value, drawn as a line.
    """
    figure = Figure(figsize=(9.6, 3.9), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for axes, key, label in ((accuracy, "top1", "top-1, held-out videos"), (loss, "loss", "training loss")):
        plain_axes(axes)
        for number, (name, rows) in enumerate(runs.items()):
            epochs = [row["epoch"] for row in rows if key in row]
            values = [row[key] for row in rows if key in row]
            axes.plot(epochs, values, color=color_of(number), label=name, linewidth=2)
            axes.plot(epochs[-1:], values[-1:], "o", color=color_of(number), markersize=4)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=PALE)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    if bound is not None:
        accuracy.axhline(bound[1], color=INK, linewidth=1, linestyle="--", label=bound[0])
    legend_above(figure, accuracy)
    save(figure, path)


def filmstrip(rows: Sequence[Strip], path: str | Path) -> None:
    """Draw clips as rows of frames, each with the prediction and its score: green where right, red where wrong.

    Args:
        rows: the clips, of the same number of frames.
        path: the PNG file to write.

    Raises:
        XViTError: no rows.
    """
    if not rows:
        raise XViTError("a filmstrip of no clips: expected at least 1")
    columns = max(len(row.frames) for row in rows)
    width, text = 9.6, 2.5  # inches
    side = (width - text) / columns
    figure = Figure(figsize=(width, (side + 0.06) * len(rows) + 0.1), dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows), columns, left=text / width, right=0.995, bottom=0.01, top=0.99, wspace=0.04, hspace=0.06
    )
    for number, row in enumerate(rows):
        color = RIGHT if row.prediction == row.truth else WRONG
        for column, frame in enumerate(row.frames):
            axes = figure.add_subplot(grid[number, column])
            axes.imshow(frame, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=color, linewidth=1.5)
            if column == 0:
                _caption(axes, row, color)
    save(figure, path)


def _caption(axes: Axes, row: Strip, color: str) -> None:
    said = f"{readable(row.prediction)}  {100 * row.score:.0f} %"
    beside: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "right",
        "annotation_clip": False,
    }
    if row.prediction == row.truth:
        axes.annotate(said, (0, 0.5), xytext=(-8, 0), va="center", color=color, fontsize=9, fontweight="bold", **beside)
    else:
        axes.annotate(said, (0, 0.5), xytext=(-8, 2), va="bottom", color=color, fontsize=9, fontweight="bold", **beside)
        truth = f"truth: {readable(row.truth)}"
        axes.annotate(truth, (0, 0.5), xytext=(-8, -2), va="top", color=INK, fontsize=8, **beside)


def plot_data(
    counts: Mapping[str, Mapping[str, int]], values: Mapping[str, Sequence[float]], path: str | Path, *, title: str = ""
) -> None:
    """Draw a data set: samples of each class as bars, a colour a part; beside them how other values are distributed.

    Args:
        counts: of each part (train, val), of each class; all parts have the same classes.
        values: numbers by what they are, such as "frames a second".
        path: the PNG file to write.
        title: above the bars.
    """
    parts = list(counts)
    totals = {name: sum(counts[part].get(name, 0) for part in parts) for part in parts for name in counts[part]}
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    named = len(ranked) <= NAMED_CLASSES
    height = float(np.clip(0.21 * len(ranked) + 1.2, 1.9 * max(len(values), 1) + 0.6, 14)) if named else 5.5
    figure = Figure(figsize=(10.5, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(max(len(values), 1), 2, width_ratios=(1.7, 1))
    bars = figure.add_subplot(grid[:, 0])
    plain_axes(bars)
    left = np.zeros(len(ranked))
    for number, part in enumerate(parts):
        widths = np.array([counts[part].get(name, 0) for name in ranked])
        if named:
            thick = min(0.78, 0.1 * len(ranked))
            bars.barh(range(len(ranked)), widths, thick, left=left, color=color_of(number), label=part)
        else:
            bars.fill_between(
                range(len(ranked)), left, left + widths, step="mid", linewidth=0, color=color_of(number), label=part
            )
        left = left + widths
    if named:
        names = [readable(name) for name in ranked]
        bars.set_yticks(range(len(ranked)), [name if len(name) <= 44 else f"{name[:43]}…" for name in names])
        bars.tick_params(axis="y", length=0)
        bars.set(ylim=(len(ranked) - 0.4, -0.6), xlabel="samples")
        bars.xaxis.set_major_locator(MaxNLocator(integer=True))
        bars.grid(axis="x", color=PALE)
        for row, name in enumerate(ranked):
            if totals[name] == 0:
                bars.annotate(
                    "none", (0, row), (4, 0), textcoords="offset points", va="center", color=WRONG, fontsize=8
                )
    else:
        bars.set(xlabel=f"{len(ranked)} classes, the most frequent first", ylabel="samples", ylim=(0, None))
        bars.set_xlim(-0.5, len(ranked) - 0.5)
        bars.grid(axis="y", color=PALE)
    bars.set_title(title, loc="left", color=INK, fontsize=11)
    if len(parts) > 1:
        legend_above(figure, bars)
    for row, (name, numbers) in enumerate(values.items()):
        axes = figure.add_subplot(grid[row, 1])
        plain_axes(axes)
        low, high = (min(numbers), max(numbers)) if len(numbers) else (0.0, 0.0)
        margin = (high - low) / 58 if high > low else max(0.1 * abs(high), 0.5)  # the ends in the middle of a bar
        axes.hist(numbers, bins=30 if high > low else 31, range=(low - margin, high + margin), color=COLORS[0])
        axes.set(xlabel=name, ylabel="files")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y", color=PALE)
    save(figure, path)
