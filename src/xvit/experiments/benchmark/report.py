"""The tables of a benchmark, what they say of the promises, and the picture; beside them the paper's own figures."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from xvit.experiments.benchmark.entrants import ENTRANTS
from xvit.experiments.benchmark.run import Plan, Row, machine
from xvit.visualize.benchmark import plot_benchmark

IMAGE, OURS, PLAIN = "image model", "xvit mixing", "xvit mixing alone"
PEERS = ("TimeSformer", "ViViT", "VideoMAE")
HEADS = (
    "model", "T", "10⁶ parameters", "10⁹ MACs", "ms a clip [quartiles]", "ms a frame", "to image model", "peak MB",
    "to image model", "of matmul rate", "T/2 to T",
)  # fmt: skip
# Data set, backbone, frames, top-1, top-5, 10^9 multiply-adds over 3 views, as the paper gives them; "": it does not.
PAPER = (
    ("Something-Something v2", "B/32", 8, 59.8, "", 95),
    ("Something-Something v2", "L/32", 8, 61.0, "", 327),
    ("Something-Something v2", "B/16", 8, 63.4, 89.6, 425),
    ("Something-Something v2", "B/16", 16, 65.2, 90.6, ""),
    ("Something-Something v2", "B/16", 32, 65.4, 90.7, ""),
    ("Kinetics-400", "B/16", 8, 78.5, 93.7, 425),
    ("Kinetics-400", "B/16", 16, 80.2, 94.7, 850),
)


class Table:
    """The rows of a mode and precision, by model and frames."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row.model, row.setting.frames): row for row in rows}
        self.frames = sorted({frames for _, frames in self.rows})
        setting = rows[0].setting
        self.title = f"{setting.mode}, {setting.precision}"
        self.mode, self.precision = setting.mode, setting.precision

    def ms(self, model: str, frames: int) -> float:
        """Median milliseconds of a clip."""
        row = self.rows[model, frames]
        return 1e3 * statistics.median(row.measured.seconds) / row.setting.batch_size

    def memory(self, model: str, frames: int) -> float:
        """Peak memory in 10^6 bytes."""
        return self.rows[model, frames].measured.peak_bytes / 1e6

    def time_ratio(self, model: str, to: str, frames: int) -> float:
        """Median over the rounds of the ratio within each round."""
        pairs = zip(self.rows[model, frames].measured.seconds, self.rows[to, frames].measured.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)

    def growth(self, model: str, few: int, many: int) -> float:
        """How many times longer the model takes at many frames than at few: both beside the matrix products of their
        own rounds, as the machine may have changed its pace between them.
        """

        def products(frames: int) -> float:
            row = self.rows[model, frames]
            return statistics.median(s * r for s, r in zip(row.measured.seconds, row.macs_per_second, strict=True))

        return products(many) / products(few)

    def memory_ratio(self, model: str, to: str, frames: int, *, above_empty: bool = False) -> float:
        """Of peak memory, whole or above that of a process without a model."""
        one, other = (self.rows[name, frames] for name in (model, to))
        empty = one.empty_bytes if above_empty else 0
        return (one.measured.peak_bytes - empty) / (other.measured.peak_bytes - empty)

    def has(self, model: str, frames: int) -> bool:
        """Whether it was measured."""
        return (model, frames) in self.rows


def tables(rows: Sequence[Row]) -> list[Table]:
    """A table for each mode and precision."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.setting.mode, row.setting.precision), []).append(row)
    return [Table(found[key]) for key in sorted(found, key=lambda key: (key[0], key[1] != "fp32"))]


def cells(table: Table) -> Iterator[tuple[str, ...]]:
    """The lines of a table as texts, under `HEADS`."""
    for model in ENTRANTS:
        for frames in table.frames:
            if not table.has(model, frames):
                continue
            row = table.rows[model, frames]
            measured, setting = row.measured, row.setting
            low, _, high = _quartiles([1e3 * s / setting.batch_size for s in measured.seconds])
            ms = table.ms(model, frames)
            passes = 3 if setting.mode == "training" else 1  # the backward pass is about two forward ones
            rate = [passes * setting.batch_size * measured.macs / s for s in measured.seconds]
            share = statistics.median(a / b for a, b in zip(rate, row.macs_per_second, strict=True))
            beside = table.has(IMAGE, frames)
            yield (
                model,
                str(frames),
                f"{measured.parameters / 1e6:.1f}",
                f"{measured.macs / 1e9:.1f}",
                f"{ms:.0f} [{low:.0f}, {high:.0f}]",
                f"{ms / frames:.1f}",
                f"{table.time_ratio(model, IMAGE, frames):.3f}" if beside else "",
                f"{table.memory(model, frames):.0f}",
                f"{table.memory_ratio(model, IMAGE, frames):.3f}" if beside else "",
                f"{100 * share:.0f} %",
                f"{table.growth(model, frames // 2, frames):.2f}" if table.has(model, frames // 2) else "",
            )


def _memory_note(found: Sequence[Table]) -> str:
    rows = [row for table in found for row in table.rows.values()]
    if any(torch.device(row.setting.device).type == "cuda" for row in rows):
        return "Peak memory is what torch allocated on the accelerator."
    empty = statistics.median(row.empty_bytes for row in rows) / 1e6
    return (
        "Peak memory is that of a process of its own for each model, libraries and weights in it; without a model the "
        f"process takes {empty:.0f} MB."
    )


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def findings(table: Table) -> Iterator[str]:
    """What a table says: mixing's price over the image model, growth, and who is ahead of whom."""
    for frames in table.frames:
        if table.has(PLAIN, frames) and table.has(IMAGE, frames):
            text = f"T = {frames}: with mixing the image model takes {_prices(table, PLAIN, frames)}"
            if table.has(OURS, frames):
                text += f"; with temporal head and shortcut {_prices(table, OURS, frames)}"
            yield text
    for model in (IMAGE, OURS, "xvit joint"):
        if table.has(model, 8) and table.has(model, 64):
            yield f"{model}: {table.growth(model, 8, 64):.2f} times the time at T = 64 of that at T = 8"
    ours = [name for name in ENTRANTS if name.startswith(OURS) and name != PLAIN]
    for frames in table.frames:
        for peer in PEERS:
            if not table.has(peer, frames):
                continue
            below = [
                name
                for name in ours
                if table.has(name, frames)
                and table.ms(name, frames) < table.ms(peer, frames)
                and table.memory(name, frames) < table.memory(peer, frames)
            ]
            by = f"below it in time and memory: {'; '.join(below)}" if below else "nothing of ours is below it in both"
            price = f"{table.ms(peer, frames):.0f} ms, {table.memory(peer, frames):.0f} MB"
            yield f"T = {frames}: {peer} ({price}): {by}"


def _prices(table: Table, model: str, frames: int) -> str:
    time = table.time_ratio(model, IMAGE, frames)
    memory = [table.memory_ratio(model, IMAGE, frames, above_empty=above) for above in (False, True)]
    return f"{time:.3f} of its time, {memory[0]:.3f} of its memory ({memory[1]:.3f} above an empty process)"


def write_report(folder: str | Path, plan: Plan, rows: Sequence[Row]) -> None:
    """Write benchmark.md and benchmark.png."""
    folder, found = Path(folder), tables(rows)
    (folder / "benchmark.md").write_text("\n".join(_lines(plan, found)), encoding="utf-8")
    if found:
        plot_benchmark(
            {
                table.title: {
                    model: [
                        (frames, table.ms(model, frames), table.memory(model, frames))
                        for frames in table.frames
                        if table.has(model, frames)
                    ]
                    for model in ENTRANTS
                    if any(table.has(model, frames) for frames in table.frames)
                }
                for table in found
            },
            folder / "benchmark.png",
        )


def _lines(plan: Plan, found: Sequence[Table]) -> Iterator[str]:
    known = machine(plan)
    yield "# Video transformers side by side"
    yield ""
    yield "By `xvit benchmark`. " + ", ".join(f"{name} {value}" for name, value in known.items()) + "."
    yield (
        f"{plan.backbone} and what is of its size; {plan.batch_size} clip at a time, {plan.threads} threads, "
        f"{plan.rounds} rounds in which all models of a table's T take turns, medians. {_memory_note(found)} The share "
        "of the matrix multiplication's rate is that of plain products in the same rounds (training counted as three "
        "forward passes); growth from T/2 to T is in units of these products."
    )
    yield ""
    yield "![Time and memory against the number of frames](benchmark.png)"
    for table in found:
        yield from ("", f"## {table.title[0].upper()}{table.title[1:]}", "")
        yield "| " + " | ".join(HEADS) + " |"
        yield "|" + "---|" * len(HEADS)
        for line in cells(table):
            yield "| " + " | ".join(line) + " |"
        yield ""
        for text in findings(table):
            yield f"- {text}"
    yield from ("", "## The models", "", "| model | what it is |", "|---|---|")
    for name in ENTRANTS:
        if any(table.has(name, frames) for table in found for frames in table.frames):
            yield f"| {name} | {ENTRANTS[name].about} |"
    yield from ("", "## The paper's own figures", "")
    yield "Not measured here: XViT on real videos, as the paper reports it; 1x3 views, multiply-adds of all together."
    heads = ("data set", "backbone", "T", "top-1, %", "top-5, %", "10⁹ MACs")
    yield from ("", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|")
    for figures in PAPER:
        yield "| " + " | ".join(map(str, figures)) + " |"
    yield ""
