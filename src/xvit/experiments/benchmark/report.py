"""The report of a benchmark: tables, a summary of the comparisons, a plot, and the paper's own figures."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch

from xvit.experiments import common
from xvit.experiments.benchmark.peers import MODELS
from xvit.experiments.benchmark.run import BenchmarkConfig, ModelResult, machine_info
from xvit.utils.files import atomic_write_text
from xvit.visualize import plot_benchmark

IMAGE_MODEL, XVIT, MIXING_ALONE = "image model", "xvit mixing", "xvit mixing alone"
PEERS = ("TimeSformer", "ViViT", "VideoMAE")
COLUMNS = (
    "model", "T", "10⁶ parameters", "10⁹ MACs", "ms per clip [quartiles]", "ms per frame", "time / image model",
    "peak MB", "memory / image model", "share of matmul rate", "T/2 to T",
)  # fmt: skip
PAPER_COLUMNS = ("data set", "backbone", "T", "top-1, %", "top-5, %", "10⁹ MACs")
# The paper's figures, with the multiply-adds of all 3 views together; "" where the paper has none.
PAPER_ROWS = (
    ("Something-Something v2", "B/32", 8, 59.8, "", 95),
    ("Something-Something v2", "L/32", 8, 61.0, "", 327),
    ("Something-Something v2", "B/16", 8, 63.4, 89.6, 425),
    ("Something-Something v2", "B/16", 16, 65.2, 90.6, ""),
    ("Something-Something v2", "B/16", 32, 65.4, 90.7, ""),
    ("Kinetics-400", "B/16", 8, 78.5, 93.7, 425),
    ("Kinetics-400", "B/16", 16, 80.2, 94.7, 850),
)


class ResultTable:
    """The results of one mode and precision, by model (in the order of `MODELS`) and number of frames."""

    def __init__(self, results: Sequence[ModelResult]) -> None:
        measured = {(result.model, result.settings.frames): result for result in results}
        self.frames = sorted({frames for _, frames in measured})
        self.results = {key: measured[key] for key in product(MODELS, self.frames) if key in measured}
        settings = results[0].settings
        self.title = f"{settings.mode}, {settings.precision}"

    def has(self, model: str, frames: int) -> bool:
        """Whether the model was measured at this number of frames."""
        return (model, frames) in self.results

    def ms_per_clip(self, model: str, frames: int) -> float:
        """Median milliseconds per clip."""
        result = self.results[model, frames]
        return 1e3 * statistics.median(result.measurement.seconds) / result.settings.batch_size

    def peak_mb(self, model: str, frames: int) -> float:
        """Peak memory in 10^6 bytes."""
        return self.results[model, frames].measurement.peak_bytes / 1e6

    def time_ratio(self, model: str, frames: int) -> float:
        """Time relative to the image model: the median of the ratios within each round."""
        first, second = (self.results[name, frames].measurement.seconds for name in (model, IMAGE_MODEL))
        return statistics.median(a / b for a, b in zip(first, second, strict=True))

    def memory_ratio(self, model: str, frames: int, *, above_empty: bool = False) -> float:
        """Peak memory relative to the image model, on request without that of a process without a model."""
        first, second = (self.results[name, frames] for name in (model, IMAGE_MODEL))
        empty = first.empty_bytes if above_empty else 0
        return (first.measurement.peak_bytes - empty) / (second.measurement.peak_bytes - empty)

    def growth(self, model: str, few: int, many: int) -> float:
        """Time at `many` frames relative to the time at `few`.

        Both are in units of the matrix multiplication in the same rounds, because the speed of the machine may have
        changed between the groups.
        """
        return self._time_in_matmul_macs(model, many) / self._time_in_matmul_macs(model, few)

    def _time_in_matmul_macs(self, model: str, frames: int) -> float:
        result = self.results[model, frames]
        pairs = zip(result.measurement.seconds, result.macs_per_second, strict=True)
        return statistics.median(seconds * rate for seconds, rate in pairs)


def make_tables(results: Sequence[ModelResult]) -> list[ResultTable]:
    """One table for each mode and precision."""
    groups: dict[tuple[str, str], list[ModelResult]] = {}
    for result in results:
        groups.setdefault((result.settings.mode, result.settings.precision), []).append(result)
    return [ResultTable(groups[key]) for key in sorted(groups, key=lambda key: (key[0], key[1] != "fp32"))]


def table_rows(table: ResultTable) -> Iterator[tuple[str, ...]]:
    """The rows of a table as text, one cell for each of `COLUMNS`."""
    for (model, frames), result in table.results.items():
        measurement, settings = result.measurement, result.settings
        ms = [1e3 * seconds / settings.batch_size for seconds in measurement.seconds]
        first, median, third = np.percentile(ms, (25, 50, 75))
        passes = 3 if settings.mode == "training" else 1  # the backward pass costs about two forward passes
        macs = passes * settings.batch_size * measurement.macs
        rounds = zip(measurement.seconds, result.macs_per_second, strict=True)
        share = statistics.median(macs / seconds / rate for seconds, rate in rounds)
        has_image_model = table.has(IMAGE_MODEL, frames)
        yield (
            model,
            str(frames),
            f"{measurement.parameters / 1e6:.1f}",
            f"{measurement.macs / 1e9:.1f}",
            f"{median:.0f} [{first:.0f}, {third:.0f}]",
            f"{median / frames:.1f}",
            f"{table.time_ratio(model, frames):.3f}" if has_image_model else "",
            f"{table.peak_mb(model, frames):.0f}",
            f"{table.memory_ratio(model, frames):.3f}" if has_image_model else "",
            f"{100 * share:.0f} %",
            f"{table.growth(model, frames // 2, frames):.2f}" if table.has(model, frames // 2) else "",
        )


def summarize(table: ResultTable) -> Iterator[str]:
    """The cost of mixing relative to the image model, growth with the frames, and the comparison with the peers."""
    for frames in table.frames:
        if table.has(MIXING_ALONE, frames) and table.has(IMAGE_MODEL, frames):
            models = [model for model in (MIXING_ALONE, XVIT) if table.has(model, frames)]
            costs = "; ".join(_cost(table, model, frames) for model in models)
            yield f"T = {frames}: relative to the image model, {costs}"
    for model in (IMAGE_MODEL, XVIT, "xvit joint"):
        if table.has(model, 8) and table.has(model, 64):
            yield f"{model}: T = 64 takes {table.growth(model, 8, 64):.2f} times as long as T = 8"
    for frames in table.frames:
        for peer in PEERS:
            if table.has(peer, frames):
                yield _compare_with_peer(table, peer, frames)


def _cost(table: ResultTable, model: str, frames: int) -> str:
    time, memory = table.time_ratio(model, frames), table.memory_ratio(model, frames)
    above_empty = table.memory_ratio(model, frames, above_empty=True)
    memory_text = f"{memory:.3f} of the memory ({above_empty:.3f} above an empty process)"
    return f"{model} takes {time:.3f} of the time and {memory_text}"


def _compare_with_peer(table: ResultTable, peer: str, frames: int) -> str:
    ms, mb = table.ms_per_clip(peer, frames), table.peak_mb(peer, frames)
    better = [
        name
        for name, measured_frames in table.results
        if name.startswith(XVIT)
        and name != MIXING_ALONE
        and measured_frames == frames
        and table.ms_per_clip(name, frames) < ms
        and table.peak_mb(name, frames) < mb
    ]
    text = "; ".join(better) or f"none of the {XVIT} models"
    return f"T = {frames}: {peer} ({ms:.0f} ms, {mb:.0f} MB): faster with less memory: {text}"


def write_report(output: str | Path, config: BenchmarkConfig, results: Sequence[ModelResult]) -> None:
    """Write benchmark.md and benchmark.png."""
    output, tables = Path(output), make_tables(results)
    atomic_write_text(output / "benchmark.md", "\n".join(markdown_lines(config, machine_info(config), tables)))
    plot_benchmark({table.title: _curves(table) for table in tables}, output / "benchmark.png")


def _curves(table: ResultTable) -> dict[str, list[tuple[int, float, float]]]:
    """Frames, milliseconds per clip and peak MB of each model."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for model, frames in table.results:
        point = (frames, table.ms_per_clip(model, frames), table.peak_mb(model, frames))
        curves.setdefault(model, []).append(point)
    return curves


def markdown_lines(config: BenchmarkConfig, machine: Mapping[str, str], tables: Sequence[ResultTable]) -> Iterator[str]:
    """The lines of benchmark.md, with the results of the machine that `machine_info` described."""
    yield from ("# Comparison of video transformers", "")
    yield f"Written by `xvit benchmark`. {', '.join(f'{name} {value}' for name, value in machine.items())}."
    yield (
        f"Models of the size of {config.backbone}, except those described below as of their own size. Batch size "
        f"{config.batch_size}, {config.threads} threads. Times are medians of {config.rounds} rounds, in which all "
        f"models with the same T take turns. {_memory_note(tables)} The share of the matmul rate compares a model's "
        "multiply-adds per second with those of plain matrix multiplications in the same rounds; a training step "
        "counts as three forward passes. The column T/2 to T is the growth in time when T doubles, in units of the "
        "same matrix multiplications."
    )
    yield from ("", "![Time and memory by number of frames](benchmark.png)")
    for table in tables:
        yield from ("", f"## {table.title[0].upper()}{table.title[1:]}", "")
        yield from common.markdown_table(COLUMNS, table_rows(table))
        yield ""
        yield from (f"- {text}" for text in summarize(table))
    yield from ("", "## The models", "")
    measured = {model for table in tables for model, _ in table.results}
    descriptions = [(name, model.description) for name, model in MODELS.items() if name in measured]
    yield from common.markdown_table(("model", "description"), descriptions)
    yield from ("", "## The paper's own figures", "")
    yield "XViT on real videos, with 1 x 3 views and the multiply-adds of all views together. Not measured here."
    yield ""
    yield from common.markdown_table(PAPER_COLUMNS, (tuple(map(str, row)) for row in PAPER_ROWS))
    yield ""


def _memory_note(tables: Sequence[ResultTable]) -> str:
    results = [result for table in tables for result in table.results.values()]
    if any(torch.device(result.settings.device).type == "cuda" for result in results):
        return "Peak memory is the memory that torch allocated on the accelerator."
    empty_mb = statistics.median(result.empty_bytes for result in results) / 1e6
    return (
        "Peak memory is that of a separate process for each model, including libraries and weights; a process without "
        f"a model takes {empty_mb:.0f} MB."
    )
