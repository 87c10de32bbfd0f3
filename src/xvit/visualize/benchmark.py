"""A benchmark as pictures: time and memory of each model against the number of frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullLocator, ScalarFormatter

from xvit.visualize.style import COLORS, DPI, INK, PALE, plain_axes, save


def plot_benchmark(tables: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]], path: str | Path) -> None:
    """Draw a row of two pictures a table, time and memory; both axes are logarithmic.

    Args:
        tables: by title, then by model: frames, milliseconds a clip, 10^6 bytes. Names that begin with "xvit" are drawn
            as whole lines with full markers, others dashed with hollow ones, "image model" in black.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(11, 3.6 * len(tables) + 0.8), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for part, (title, models) in zip(
        figure.subfigures(len(tables), 1, squeeze=False).ravel(), tables.items(), strict=True
    ):
        part.suptitle(title, fontsize=10, color=INK)
        for axes, column, label in zip(part.subplots(1, 2), (1, 2), ("ms a clip", "peak MB"), strict=True):
            ours = theirs = 0
            for model, points in models.items():
                if model.startswith("xvit"):
                    style, ours = {"color": COLORS[ours % len(COLORS)], "linestyle": "-"}, ours + 1
                elif model == "image model":
                    style = {"color": "black", "linestyle": "-"}
                else:
                    style = {"color": COLORS[theirs % len(COLORS)], "linestyle": "--", "markerfacecolor": "white"}
                    theirs += 1
                marker = "o" if ours <= len(COLORS) or style["linestyle"] == "--" else "s"
                axes.plot(
                    [point[0] for point in points],
                    [point[column] for point in points],
                    marker=marker,
                    markersize=4,
                    label=model,
                    **style,
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            frames = sorted({point[0] for points in models.values() for point in points})
            axes.set_xticks(frames, [str(number) for number in frames])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
            axes.set_xlabel("T, frames a clip", fontsize=9)
            axes.set_ylabel(label, fontsize=9)
            axes.grid(color=PALE)
            plain_axes(axes)
    handles, labels = figure.subfigs[0].axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    save(figure, path)
