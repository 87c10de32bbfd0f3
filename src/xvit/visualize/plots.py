"""Plots of evaluations and trainings: confusion matrix, accuracy per class, reliability, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from xvit.utils.errors import XViTError
from xvit.visualize import style


def plot_confusion_matrix(matrix: ArrayLike, class_names: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Draw a confusion matrix; each row is normalised by the number of samples of its true class.

    Args:
        matrix: (K, K) counts; rows are the true classes, columns the predictions.
        class_names: names of the K classes.
        path: the PNG file to write.
        title: of the plot.

    Raises:
        XViTError: a matrix that is not K x K.
    """
    counts = np.asarray(matrix, dtype=float)
    K = len(class_names)
    if counts.shape != (K, K):
        raise XViTError(f"confusion matrix of shape {counts.shape} for {K} classes: expected ({K}, {K})")
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.30 * K + 2.6, 4.5, 12))
    figure = style.new_figure(side + 0.8, side)
    axes = figure.subplots()
    style.style_axes(axes)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="ground truth", title=style.plain_text(title))
    axes.spines[:].set_visible(False)
    if K <= style.MAX_NAMED_CLASSES:
        names = [style.display_name(name) for name in class_names]
        axes.set_xticks(range(K), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(K), names)
        axes.tick_params(length=0, labelsize=8)
    if K <= 30:
        for row, column in np.argwhere(fractions >= 0.005):
            fraction = fractions[row, column]
            color = "white" if fraction > 0.55 else style.TEXT_COLOR
            axes.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", color=color, fontsize=7)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    bar.set_label("fraction of the true class")
    style.save_figure(figure, path)


def plot_per_class(
    accuracy: Mapping[str, Mapping[str, float]], path: str | Path, *, reference: tuple[str, float] | None = None
) -> None:
    """Draw accuracies per class as bars: one group per class, one bar per model.

    Args:
        accuracy: of each model, of each class, in [0, 1]. The classes of the first model define the groups.
        path: the PNG file to write.
        reference: name and value of an accuracy that is drawn as a line.
    """
    models = list(accuracy)
    classes = list(accuracy[models[0]])
    height = 0.8 / len(models)
    figure = style.new_figure(8, 1.4 + (0.10 + 0.12 * len(models)) * max(len(classes), 6))
    axes = figure.subplots()
    style.style_axes(axes, grid="x")
    positions = np.arange(len(classes))
    for index, model in enumerate(models):
        values = [accuracy[model].get(name, float("nan")) for name in classes]
        axes.barh(positions + (index + 0.5) * height - 0.4, values, height, color=style.color_of(index), label=model)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6), xlabel="accuracy")
    axes.set_yticks(positions, [style.display_name(name) for name in classes])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    if reference is not None:
        axes.axvline(reference[1], color=style.TEXT_COLOR, linewidth=1, linestyle="--", label=reference[0])
    axes.tick_params(axis="y", length=0)
    if len(models) > 1 or reference is not None:
        style.legend_above(figure, axes)
    style.save_figure(figure, path)


def plot_reliability(models: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Draw how often predictions are right by their score, and below how many there are of each score.

    Args:
        models: of each model, the bins of equal width from 0 to 1: lists "videos", "score" (mean) and "accuracy"; these
            two are None in a bin without videos.
        path: the PNG file to write.
    """
    figure = style.new_figure(5, 5.6)
    accuracy, videos = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (accuracy, videos):
        style.style_axes(axes, grid="both")
    accuracy.plot([0, 1], [0, 1], color=style.TEXT_COLOR, linewidth=1, linestyle="--")
    for index, (name, bins) in enumerate(models.items()):
        points = [(s, a) for s, a in zip(bins["score"], bins["accuracy"], strict=True) if s is not None]
        color, edges = style.color_of(index), np.linspace(0, 1, len(bins["videos"]) + 1)
        accuracy.plot(*zip(*points, strict=True), "o-", color=color, label=name, linewidth=2, markersize=4)
        videos.stairs(bins["videos"], edges, color=color, linewidth=2)
    accuracy.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    videos.set(yscale="symlog", xlabel="score of the predicted class", ylabel="videos")
    for axis in (accuracy.yaxis, videos.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    style.legend_above(figure, accuracy)
    style.save_figure(figure, path)


def plot_rejection(shares: Mapping[str, ArrayLike], threshold: float, path: str | Path) -> None:
    """Draw, over all thresholds, the share of videos that are accepted as one of the classes.

    Args:
        shares: by name, such as "known" and "unknown", the energies of some videos.
        threshold: the chosen energy, drawn as a line.
        path: the PNG file to write.
    """
    figure = style.new_figure(6.4, 4)
    axes = figure.subplots()
    style.style_axes(axes, grid="both")
    for index, (name, energies) in enumerate(shares.items()):
        ordered = np.sort(np.asarray(energies))
        accepted = 1 - np.arange(len(ordered)) / len(ordered)  # of the thresholds up to each energy
        axes.step([*ordered, ordered[-1]], [*accepted, 0], where="pre", color=style.color_of(index), label=name)
    axes.axvline(threshold, color=style.TEXT_COLOR, linewidth=1, linestyle="--", label="threshold")
    axes.set(ylim=(0, 1.02), xlabel="energy", ylabel="share of videos with at least this energy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    style.legend_above(figure, axes)
    style.save_figure(figure, path)


def plot_training_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, *, reference: tuple[str, float] | None = None
) -> None:
    """Draw the accuracy on the validation videos and the training loss over the epochs.

    Args:
        runs: the rows of each run's metrics.jsonl: "epoch" and any of "top1" (in [0, 1]) and "loss".
        path: the PNG file to write.
        reference: name and value of an accuracy that is drawn as a line.
    """
    figure = style.new_figure(9.6, 3.9)
    accuracy, loss = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for axes, key, label in ((accuracy, "top1", "top-1, validation videos"), (loss, "loss", "training loss")):
        style.style_axes(axes, grid="both")
        for index, (name, rows) in enumerate(runs.items()):
            epochs = [row["epoch"] for row in rows if key in row]
            values = [row[key] for row in rows if key in row]
            axes.plot(epochs, values, color=style.color_of(index), label=name, linewidth=2)
            axes.plot(epochs[-1:], values[-1:], "o", color=style.color_of(index), markersize=4)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    if reference is not None:
        accuracy.axhline(reference[1], color=style.TEXT_COLOR, linewidth=1, linestyle="--", label=reference[0])
    style.legend_above(figure, accuracy)
    style.save_figure(figure, path)
