"""The results of a benchmark as plots: time and memory of each model against the number of frames."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, NullLocator, ScalarFormatter

from xvit.visualize.style import COLORS, TEXT_COLOR, color_of, new_figure, save_figure, style_axes

Points = Sequence[tuple[int, float, float]]  # frames, milliseconds per clip, 10^6 bytes


def plot_benchmark(tables: Mapping[str, Mapping[str, Points]], path: str | Path) -> None:
    """Draw time and memory side by side, one row per table; all axes are logarithmic.

    Args:
        tables: by title, then by model: frames, milliseconds per clip, 10^6 bytes. Models whose names begin with
            "xvit" have solid lines and filled markers, the others dashed lines and hollow markers; "image model" is
            black.
        path: the PNG file to write.
    """
    figure = new_figure(11, 3.6 * len(tables) + 0.8)
    rows = figure.subfigures(len(tables), 1, squeeze=False).ravel()
    for row, (title, models) in zip(rows, tables.items(), strict=True):
        row.suptitle(title, fontsize=10, color=TEXT_COLOR)
        time, memory = row.subplots(1, 2)
        _draw_panel(time, models, 1, "ms per clip")
        _draw_panel(memory, models, 2, "peak MB")
    handles, labels = figure.subfigs[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_panel(axes: Axes, models: Mapping[str, Points], column: int, label: str) -> None:
    styles = _line_styles(models)
    for model, points in models.items():
        x, y = [point[0] for point in points], [point[column] for point in points]
        axes.plot(x, y, markersize=4, label=model, **styles[model])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    frames = sorted({point[0] for points in models.values() for point in points})
    axes.set_xticks(frames, [str(number) for number in frames])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.set_xlabel("T, frames per clip", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    style_axes(axes, grid="both")


def _line_styles(models: Collection[str]) -> dict[str, dict[str, Any]]:
    styles: dict[str, dict[str, Any]] = {"image model": {"color": "black", "linestyle": "-", "marker": "o"}}
    peers = [model for model in models if not model.startswith("xvit") and model not in styles]
    for index, model in enumerate(model for model in models if model.startswith("xvit")):
        marker = "o" if index < len(COLORS) else "s"  # the colours start again
        styles[model] = {"color": color_of(index), "linestyle": "-", "marker": marker}
    for index, model in enumerate(peers):
        styles[model] = {"color": color_of(index), "linestyle": "--", "marker": "o", "markerfacecolor": "white"}
    return styles
