"""The tables of a benchmark, what they say of the promises, and the picture; beside them the paper's own figures."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from xvit.benchmark.entrants import ENTRANTS
from xvit.benchmark.run import Plan, Row, machine
from xvit.visualize.benchmark import plot_benchmark

IMAGE, OURS, PLAIN = "image model", "xvit mixing", "xvit mixing alone"
PEERS = ("TimeSformer", "ViViT", "VideoMAE")
HEADS = (
    "model", "T", "10⁶ parameters", "10⁹ MACs", "ms a clip [quartiles]", "ms a frame", "to image model", "peak MB",
    "to image model", "of matmul rate", "T/2 to T",
)  # fmt: skip
# Data set, backbone, frames, top-1, top-5, 10^9 multiply-adds over 3 views: as the paper gives them, "" where it is silent.
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
        """Median milliseconds of a batch."""
        return 1e3 * statistics.median(self.rows[model, frames].measured.seconds)

    def memory(self, model: str, frames: int) -> float:
        """Peak memory in 10^6 bytes."""
        return self.rows[model, frames].measured.peak_bytes / 1e6

    def time_ratio(self, model: str, to: str, frames: int) -> float:
        """Median over the rounds of the ratio within each round."""
        pairs = zip(self.rows[model, frames].measured.seconds, self.rows[to, frames].measured.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)

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
            low, _, high = _quartiles(measured.seconds)
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
                f"{ms:.0f} [{1e3 * low:.0f}, {1e3 * high:.0f}]",
                f"{ms / frames / setting.batch_size:.1f}",
                f"{table.time_ratio(model, IMAGE, frames):.3f}" if beside else "",
                f"{table.memory(model, frames):.0f}",
                f"{table.memory(model, frames) / table.memory(IMAGE, frames):.3f}" if beside else "",
                f"{100 * share:.0f} %",
                f"{ms / table.ms(model, frames // 2):.2f}" if table.has(model, frames // 2) else "",
            )


def _quartiles(values: Sequence[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def findings(table: Table) -> Iterator[str]:
    """What a table says: mixing's price over the image model, growth, and who is ahead of whom."""
    for frames in table.frames:
        if table.has(PLAIN, frames) and table.has(IMAGE, frames):
            time = table.time_ratio(PLAIN, IMAGE, frames)
            memory = table.memory(PLAIN, frames) / table.memory(IMAGE, frames)
            text = f"T = {frames}: with mixing the image model takes {time:.3f} of its time, {memory:.3f} of its memory"
            if table.has(OURS, frames):
                time = table.time_ratio(OURS, IMAGE, frames)
                memory = table.memory(OURS, frames) / table.memory(IMAGE, frames)
                text += f"; with temporal head and shortcut {time:.3f} and {memory:.3f}"
            yield text
    for model in (OURS, "xvit joint"):
        if table.has(model, 8) and table.has(model, 64):
            yield f"{model}: {table.ms(model, 64) / table.ms(model, 8):.2f} times the time at T = 64 of that at T = 8"
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
        f"{plan.rounds} rounds in which all models of a table's T take turns, medians. Peak memory is that of a "
        "process of its own for each model, libraries and weights in it. The share of the matrix multiplication's rate "
        "is that of plain products in the same rounds (training counted as three forward passes)."
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
    for name in plan.models:
        yield f"| {name} | {ENTRANTS[name].about} |"
    yield from ("", "## The paper's own figures", "")
    yield "Not measured here: XViT on real videos as the paper reports it, 1x3 views, multiply-adds of all views together."
    heads = ("data set", "backbone", "T", "top-1, %", "top-5, %", "10⁹ MACs")
    yield from ("", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|")
    for figures in PAPER:
        yield "| " + " | ".join(map(str, figures)) + " |"
    yield ""
