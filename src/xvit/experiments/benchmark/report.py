"""The report of a benchmark: tables, a summary of the comparisons, a picture per mode, and the paper's own figures."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from xvit.experiments import common
from xvit.experiments.benchmark.measure import GroupSettings
from xvit.experiments.benchmark.peers import IMAGE_MODEL, MODELS
from xvit.experiments.benchmark.ratios import MIN_ROUNDS, Ratio, ratio_of
from xvit.experiments.benchmark.run import MODES, GroupResult, describe_group
from xvit.utils.files import atomic_write_text
from xvit.visualize import CostPoint, plot_benchmark

XVIT, MIXING_ALONE = "xvit mixing", "xvit mixing alone"
PEERS = ("TimeSformer", "ViViT", "VideoMAE")
COLUMNS = (
    "model", "T", "time / image model [95 % interval]", "margin", "ms per clip [quartiles]", "ms per frame", "peak MB",
    "memory / image model [runs]", "10⁶ parameters", "10⁹ MACs", "10⁹ MACs/s",
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
    """The groups of one backbone, mode and precision, one for each number of frames."""

    def __init__(self, groups: Sequence[GroupResult]) -> None:
        self.groups = {group.settings.frames: group for group in sorted(groups, key=lambda g: g.settings.frames)}
        self.settings = groups[0].settings
        self.title = f"{self.settings.backbone}, {self.settings.mode}, {self.settings.precision}"
        measured = {name for group in groups for name in group.models}
        self.models = [name for name in MODELS if name in measured]

    def has(self, model: str, frames: int) -> bool:
        """Whether the model was measured at this number of frames."""
        return frames in self.groups and model in self.groups[frames].models

    def cells(self) -> Iterator[tuple[str, int]]:
        """Each model with each number of frames at which it was measured, by model."""
        yield from ((name, frames) for name in self.models for frames in self.groups if self.has(name, frames))

    def ms_per_clip(self, model: str, frames: int) -> float:
        """Median milliseconds per clip."""
        seconds = self.groups[frames].models[model].seconds
        return 1e3 * statistics.median(seconds) / self.settings.batch_size

    def peak_mb(self, model: str, frames: int) -> float:
        """Peak memory in 10^6 bytes."""
        return min(self.groups[frames].models[model].peak_bytes) / 1e6

    def memory_ratio(self, model: str, frames: int, *, above_empty: bool = False) -> tuple[float, float, float]:
        """Peak memory relative to the image model, on request without that of a process without a model.

        Returns:
            The ratio, and the least and the greatest that the runs allow.
        """
        group = self.groups[frames]
        empty = min(group.empty_bytes) if above_empty else 0
        first, second = ([peak - empty for peak in group.models[name].peak_bytes] for name in (model, IMAGE_MODEL))
        return min(first) / min(second), min(first) / max(second), max(first) / min(second)

    def is_cheaper(self, model: str, peer: str, frames: int) -> bool:
        """Whether a model takes less time (the interval of the ratio is below 1) and less memory (in all runs)."""
        first, second = (self.groups[frames].models[name] for name in (model, peer))
        ratio = ratio_of(first.seconds, second.seconds)
        return ratio.high is not None and ratio.high < 1 and max(first.peak_bytes) < min(second.peak_bytes)


def make_tables(groups: Iterable[GroupResult]) -> list[ResultTable]:
    """One table for each backbone, mode and precision, in the order of the groups."""
    by_title: dict[tuple[str, str, str], list[GroupResult]] = {}
    for group in groups:
        settings = group.settings
        by_title.setdefault((settings.backbone, settings.mode, settings.precision), []).append(group)
    return list(map(ResultTable, by_title.values()))


def table_rows(table: ResultTable) -> Iterator[tuple[str, ...]]:
    """The rows of a table as text, one cell for each of `COLUMNS`."""
    for model, frames in table.cells():
        group, settings = table.groups[frames], table.settings
        measurement = group.models[model]
        ms = [1e3 * seconds / settings.batch_size for seconds in measurement.seconds]
        first, median, third = np.percentile(ms, (25, 50, 75))
        passes = 3 if settings.mode == "training" else 1  # the backward pass costs about two forward passes
        memory, least, greatest = table.memory_ratio(model, frames)
        is_reference = model == IMAGE_MODEL
        yield (
            model,
            str(frames),
            "1" if is_reference else format_ratio(group.ratios[model]),
            "" if is_reference else format_margin(group, model),
            f"{median:.4g} [{first:.4g}, {third:.4g}]",
            f"{median / frames:.4g}",
            f"{table.peak_mb(model, frames):.0f}",
            "1" if is_reference else f"{memory:.3f} [{least:.3f}, {greatest:.3f}]",
            f"{measurement.parameters / 1e6:.1f}",
            f"{measurement.macs / 1e9:.1f}",
            f"{1e-6 * passes * measurement.macs / median:.0f}",
        )


def format_ratio(ratio: Ratio) -> str:
    """A ratio and its interval, if it has one, as text."""
    return f"{ratio.median:.3f}" + ("" if ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]")


def format_margin(group: GroupResult, model: str) -> str:
    """How precise the ratio of a model is, and whether that is less precise than requested."""
    ratio = group.ratios[model]
    if ratio.low is None:
        return f"no interval: {group.rounds} of {MIN_ROUNDS} rounds"
    return f"±{ratio.margin:.1f} %" + ("" if group.is_converged(model) else f", not within ±{group.margin:g} %")


def compact_rows(table: ResultTable) -> Iterator[tuple[str, ...]]:
    """The ratios to the image model's time alone: a row for each model, a column for each number of frames."""
    for model in table.models:
        if model != IMAGE_MODEL:
            groups = [group if model in group.models else None for group in table.groups.values()]
            yield (model, *(_compact_cell(group, model) if group else "" for group in groups))


def _compact_cell(group: GroupResult, model: str) -> str:
    ratio = group.ratios[model]
    if ratio.low is None:
        return f"{ratio.median:.3f} (no interval)"
    return f"{ratio.median:.3f} ± {ratio.margin:.1f} %" + ("" if group.is_converged(model) else " (not converged)")


def summarize(table: ResultTable) -> Iterator[str]:
    """How precise each group is, the cost of mixing relative to the image model, and the comparison with the peers."""
    for frames, group in table.groups.items():
        yield f"T = {frames}: {describe_group(group)}"
    for frames in table.groups:
        models = [model for model in (MIXING_ALONE, XVIT) if table.has(model, frames)]
        if models:
            costs = "; ".join(_cost(table, model, frames) for model in models)
            yield f"T = {frames}: relative to the image model, {costs}"
    for frames in table.groups:
        for peer in PEERS:
            if table.has(peer, frames):
                yield _compare_with_peer(table, peer, frames)


def _cost(table: ResultTable, model: str, frames: int) -> str:
    group = table.groups[frames]
    memory, *_ = table.memory_ratio(model, frames)
    above_empty, *_ = table.memory_ratio(model, frames, above_empty=True)
    memory_text = f"{memory:.3f} of the memory ({above_empty:.3f} above an empty process)"
    return f"{model} takes {format_ratio(group.ratios[model])} of the time and {memory_text}"


def _compare_with_peer(table: ResultTable, peer: str, frames: int) -> str:
    ms, mb = table.ms_per_clip(peer, frames), table.peak_mb(peer, frames)
    ours = [name for name in table.models if name.startswith(XVIT) and name != MIXING_ALONE and table.has(name, frames)]
    text = "; ".join(name for name in ours if table.is_cheaper(name, peer, frames)) or f"none of the {XVIT} models"
    return f"T = {frames}: {peer} ({ms:.0f} ms, {mb:.0f} MB): faster with less memory: {text}"


def write_report(output: str | Path, groups: Sequence[GroupResult], machine: Mapping[str, str]) -> list[str]:
    """Write benchmark.md and a picture for each mode; return the names of the files."""
    output, tables = Path(output), make_tables(groups)
    atomic_write_text(output / "benchmark.md", "\n".join(markdown_lines(machine, tables)))
    modes = [mode for mode in MODES if any(table.settings.mode == mode for table in tables)]
    for mode in modes:
        rows = {_row_title(table): _curves(table) for table in tables if table.settings.mode == mode}
        plot_benchmark(rows, output / f"{mode}.png", title=_PICTURE_TITLES[mode])
    return ["benchmark.md", *(f"{mode}.png" for mode in modes)]


_PICTURE_TITLES = {"inference": "Inference", "training": "Training step"}


def _row_title(table: ResultTable) -> str:
    return f"{table.settings.backbone}, {table.settings.precision}"


def _curves(table: ResultTable) -> dict[str, list[CostPoint]]:
    curves: dict[str, list[CostPoint]] = {}
    for model, frames in table.cells():
        point = CostPoint(
            frames=frames,
            ms_per_frame=table.ms_per_clip(model, frames) / frames,
            peak_mb=table.peak_mb(model, frames),
            gmacs_per_frame=table.groups[frames].models[model].macs / frames / 1e9,
        )
        curves.setdefault(model, []).append(point)
    return curves


def markdown_lines(machine: Mapping[str, str], tables: Sequence[ResultTable]) -> Iterator[str]:
    """The lines of benchmark.md, with the results of the machine that `machine_info` described."""
    yield from ("# Comparison of video transformers", "")
    yield f"Written by `xvit benchmark`. {', '.join(f'{name} {value}' for name, value in machine.items())}."
    yield from ("", *_method(tables))
    for mode in MODES:
        of_mode = [table for table in tables if table.settings.mode == mode]
        if of_mode:
            yield from ("", f"## {_PICTURE_TITLES[mode]}", "")
            yield f"![Time, memory and multiply-adds by number of frames: {mode}]({mode}.png)"
        for table in of_mode:
            yield from _table_lines(table)
    yield from ("", "## The models", "")
    measured = {model for table in tables for model in table.models}
    descriptions = [(name, model.description) for name, model in MODELS.items() if name in measured]
    yield from common.markdown_table(("model", "description"), descriptions)
    yield from ("", "## The paper's own figures", "")
    yield "XViT on real videos, with 1 x 3 views and the multiply-adds of all views together. Not measured here."
    yield ""
    yield from common.markdown_table(PAPER_COLUMNS, (tuple(map(str, row)) for row in PAPER_ROWS))
    yield ""


def _method(tables: Sequence[ResultTable]) -> Iterator[str]:
    settings: GroupSettings = tables[0].settings
    compiled = ", torch.compile" if settings.compiled else ""
    yield (
        "Models of the size of the named backbone, except those described below as of their own size. Batch size "
        f"{settings.batch_size}, {settings.threads} threads{compiled}. All models with the same T take turns in "
        "rounds, in a new random order in each round. A ratio of times is the median of the ratios within each round. "
        "Its interval is distribution-free (order statistics). The rounds end once all intervals are narrow, which "
        "favours narrow ones; computed at 97.5 %, they hold in 95 % of all benchmarks or more, if rounds are "
        "independent. The margin is the larger distance of the interval's ends from the ratio. A round is an outlier "
        "if a ratio in it is more than three interquartile ranges outside the quartiles; outliers are counted, not "
        "left out."
    )
    yield ""
    yield (
        f"{_memory_note(tables)} The last column has the multiply-adds per second; a training step counts as three "
        "forward passes."
    )


def _table_lines(table: ResultTable) -> Iterator[str]:
    yield from ("", f"### {_row_title(table)}", "", "Time relative to the image model on the same frames:", "")
    yield from common.markdown_table(("", *(f"T = {frames}" for frames in table.groups)), compact_rows(table))
    yield ""
    yield from (f"- {text}" for text in summarize(table))
    yield ""
    yield from common.markdown_table(COLUMNS, table_rows(table))


def _memory_note(tables: Sequence[ResultTable]) -> str:
    if any(torch.device(table.settings.device).type == "cuda" for table in tables):
        return "Peak memory is the memory that torch allocated on the accelerator."
    empty = statistics.median(peak for table in tables for group in table.groups.values() for peak in group.empty_bytes)
    return (
        "Peak memory is that of a separate process for each model and run, including libraries and weights; a process "
        f"without a model takes {empty / 1e6:.0f} MB. In these processes the allocator returns freed memory to the "
        "system at once. The range of the runs is that of the ratio's least and greatest values."
    )
