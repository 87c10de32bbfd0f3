"""Pictures of results: plain arrays in, PNG files out. Matplotlib without its global state: safe in any thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from xvit.errors import XViTError

COLORS = ("#2563eb", "#ea7317", "#64748b", "#16a34a", "#9333ea", "#dc2626")
INK, PALE, RIGHT, WRONG = "#1e293b", "#e2e8f0", "#15803d", "#c81e1e"
_CLASS_COLORS = (  # of classes side by side: neighbours far apart
    *("#2563eb", "#ea7317", "#16a34a", "#dc2626", "#9333ea", "#0891b2", "#ca8a04", "#db2777", "#64748b", "#84cc16"),
    *("#1e3a8a", "#92400e", "#0f766e", "#f472b6"),
)
_TICKS = (0.1, 0.5, 1, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds from one to the next
_DPI = 110
_NAMED_CLASSES = 60  # beyond, class names on an axis are dust
_TIMELINE_CLASSES = 16
_TIMELINE_POINTS = 1000  # along the width: about one a pixel


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
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="truth", title=title)
    axes.spines[:].set_visible(False)
    if K <= _NAMED_CLASSES:
        names = [_shown(label) for label in labels]
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
    _save(figure, path)


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
    figure, axes = _figure(8, 1.4 + (0.10 + 0.12 * len(models)) * max(len(classes), 6))
    places = np.arange(len(classes))
    for number, model in enumerate(models):
        values = [accuracy[model].get(name, float("nan")) for name in classes]
        axes.barh(places + (number + 0.5) * height - 0.4, values, height, color=_color(number), label=model)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6), xlabel="accuracy")
    axes.set_yticks(places, [_shown(name) for name in classes])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", color=PALE)
    if bound is not None:
        axes.axvline(bound[1], color=INK, linewidth=1, linestyle="--", label=bound[0])
    axes.tick_params(axis="y", length=0)
    if len(models) > 1 or bound is not None:
        _legend(figure, axes)
    _save(figure, path)


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, *, bound: tuple[str, float] | None = None
) -> None:
    """Draw the course of trainings: accuracy on held-out videos, and loss on the training ones.

    Args:
        runs: the rows of each training's metrics.jsonl: "epoch" and any of "top1" (in [0, 1]) and "loss".
        path: the PNG file to write.
        bound: the name of an accuracy and its value, drawn as a line.
    """
    figure = Figure(figsize=(9.6, 3.9), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, loss = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for axes, key, label in ((accuracy, "top1", "top-1, held-out videos"), (loss, "loss", "training loss")):
        _style(axes)
        for number, (name, rows) in enumerate(runs.items()):
            epochs = [row["epoch"] for row in rows if key in row]
            values = [row[key] for row in rows if key in row]
            axes.plot(epochs, values, color=_color(number), label=name, linewidth=2)
            axes.plot(epochs[-1:], values[-1:], "o", color=_color(number), markersize=4)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=PALE)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    if bound is not None:
        accuracy.axhline(bound[1], color=INK, linewidth=1, linestyle="--", label=bound[0])
    _legend(figure, accuracy)
    _save(figure, path)


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
    figure = Figure(figsize=(width, (side + 0.06) * len(rows) + 0.1), dpi=_DPI)
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
    _save(figure, path)


def plot_timeline(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    path: str | Path,
    *,
    duration: float,
    rows: Mapping[str, Sequence[tuple[float, float, str]]],
    frames: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Draw a long video: segments as bands, the scores of each class below, frames of it at the bottom.

    Of the classes that no segment names, those are left out whose score is never 10 %, and beyond 16 classes in all
    those of the lowest scores.

    Args:
        times: (N,) seconds of the scores, ascending.
        scores: (N, K), in [0, 1].
        labels: the K class names.
        path: the PNG file to write.
        duration: seconds of the video.
        rows: a band each, by its name: segments as start and end in seconds, and label.
        frames: (n, H, W, 3) uint8: the middle one of each of n equal parts of the video.
        title: above it.

    Raises:
        XViTError: times, scores and labels that do not go together.
    """
    if scores.shape != (len(times), len(labels)) or not scores.size:
        raise XViTError(f"{len(times)} times, {len(labels)} labels, scores of shape {scores.shape}: expected (N, K)")
    shown = _timeline_classes(scores, labels, rows)
    colors = {labels[place]: _CLASS_COLORS[number % len(_CLASS_COLORS)] for number, place in enumerate(shown)}
    width = 12.0
    heights = [0.32 * len(rows), 0.24 * len(shown) + 0.1]
    if frames is not None:
        heights.append(0.84 * width / len(frames) * frames.shape[1] / frames.shape[2])
    layout = ConstrainedLayoutEngine(hspace=0.02, h_pad=0.04)
    figure = Figure(figsize=(width, sum(heights) + 1.0), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    bands, below, *strip = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
    _draw_bands(bands, rows, colors, duration)
    bands.set_title(title.replace("$", r"\$"), loc="left", color=INK, fontsize=11)
    _draw_scores(below, times, scores[:, shown], list(colors.items()), duration)
    if frames is not None:
        _draw_frames(strip[0], frames, duration)
    below.set_xlim(0, duration)
    last = strip[0] if strip else below
    last.xaxis.set_major_locator(MultipleLocator(next((step for step in _TICKS if duration / step <= 13), 36000)))
    last.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds, duration)))
    last.tick_params(axis="x", labelsize=9, colors=INK, length=3, labelbottom=True)
    _save(figure, path)


def _timeline_classes(scores: np.ndarray, labels: Sequence[str], rows: Mapping[str, Any]) -> list[int]:
    """Places of the classes to show, in the order of `labels`."""
    named = {label for segments in rows.values() for _, _, label in segments}
    peaks = scores.max(axis=0)
    shown = [place for place, label in enumerate(labels) if label in named]
    others = [place for place in np.argsort(-peaks, kind="stable").tolist() if labels[place] not in named]
    room = max(_TIMELINE_CLASSES - len(shown), 0)
    shown += [place for place in others[:room] if peaks[place] >= 0.1]
    return sorted(shown or others[:1])


def _draw_bands(
    axes: Axes, rows: Mapping[str, Sequence[tuple[float, float, str]]], colors: Mapping[str, str], duration: float
) -> None:
    for row, segments in enumerate(rows.values()):
        axes.barh(row, duration, left=0, height=0.8, color="#f1f5f9")
        for start, end, label in segments:
            axes.barh(row, end - start, left=start, height=0.8, color=colors[label], edgecolor="white", linewidth=0.8)
            if len(label) <= 120 * (end - start) / duration:  # about 120 letters fit in along the whole width
                center: dict[str, Any] = {"ha": "center", "va": "center"}
                axes.text((start + end) / 2, row, _shown(label), color="white", fontsize=8, **center)
    axes.set_yticks(range(len(rows)), [_shown(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=9, colors=INK)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_scores(
    axes: Axes, times: np.ndarray, scores: np.ndarray, colors: Sequence[tuple[str, str]], duration: float
) -> None:
    """Each class a row, filled as high as its score; of a long video many scores share a point: their mean."""
    edges = np.concatenate([[0.0], (times[:-1] + times[1:]) / 2])  # each score up to the middle between it and the next
    groups = np.arange(0, len(times), -(-len(times) // _TIMELINE_POINTS))
    means = np.add.reduceat(scores, groups, axis=0, dtype=np.float64) / np.diff([*groups, len(times)])[:, None]
    x = np.append(edges[groups], duration)
    for row, (_, color) in enumerate(colors):
        height = 0.92 * np.append(means[:, row], means[-1, row])
        axes.axhline(row + 1, color=PALE, linewidth=0.6)
        axes.fill_between(x, row + 1, row + 1 - height, step="post", color=color, linewidth=0)
    names = [_shown(label) for label, _ in colors]
    axes.set_yticks(np.arange(len(names)) + 0.6, [name if len(name) <= 28 else f"{name[:27]}…" for name in names])
    for text, (_, color) in zip(axes.get_yticklabels(), colors, strict=True):
        text.set_color(color)
    axes.set_ylim(len(colors), -0.1)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


def _draw_frames(axes: Axes, frames: np.ndarray, duration: float) -> None:
    """Each frame in its part of the width."""
    part = duration / len(frames)
    for number, picture in enumerate(frames):
        extent = ((number + 0.02) * part, (number + 0.98) * part, 0, 1)
        axes.imshow(picture, extent=extent, aspect="auto", interpolation="antialiased")
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)


def _clock(seconds: float, duration: float) -> str:
    """m:ss, or h:mm:ss of a long video."""
    whole = round(seconds)
    if duration < 12:
        return f"{seconds:g} s"
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if duration >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"


def _caption(axes: Axes, row: Strip, color: str) -> None:
    said = f"{_shown(row.prediction)}  {100 * row.score:.0f} %"
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
        truth = f"truth: {_shown(row.truth)}"
        axes.annotate(truth, (0, 0.5), xytext=(-8, -2), va="top", color=INK, fontsize=8, **beside)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#94a3b8")
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    room = 14 * figure.get_figwidth() // (max(map(len, labels)) + 7)  # about 14 letters an inch; 7 for the sample
    columns = int(np.clip(room, 1, len(labels)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _shown(label: str) -> str:
    return label.replace("_", " ").replace("$", r"\$")  # a dollar would start a formula


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})


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
    named = len(ranked) <= _NAMED_CLASSES
    height = float(np.clip(0.21 * len(ranked) + 1.2, 1.9 * max(len(values), 1) + 0.6, 14)) if named else 5.5
    figure = Figure(figsize=(10.5, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(max(len(values), 1), 2, width_ratios=(1.7, 1))
    bars = figure.add_subplot(grid[:, 0])
    _style(bars)
    left = np.zeros(len(ranked))
    for number, part in enumerate(parts):
        widths = np.array([counts[part].get(name, 0) for name in ranked])
        if named:
            thick = min(0.78, 0.1 * len(ranked))
            bars.barh(range(len(ranked)), widths, thick, left=left, color=_color(number), label=part)
        else:
            bars.fill_between(
                range(len(ranked)), left, left + widths, step="mid", linewidth=0, color=_color(number), label=part
            )
        left = left + widths
    if named:
        names = [_shown(name) for name in ranked]
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
        bars.legend(frameon=False, fontsize=9, loc="lower right" if named else "upper right")
    for row, (name, numbers) in enumerate(values.items()):
        axes = figure.add_subplot(grid[row, 1])
        _style(axes)
        low, high = (min(numbers), max(numbers)) if len(numbers) else (0.0, 0.0)
        margin = (high - low) / 58 if high > low else max(0.1 * abs(high), 0.5)  # the ends in the middle of a bar
        axes.hist(numbers, bins=30 if high > low else 31, range=(low - margin, high + margin), color=COLORS[0])
        axes.set(xlabel=name, ylabel="files")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y", color=PALE)
    _save(figure, path)
