"""The tables of an ablation: ours measured, the paper's beside them and marked as the paper's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import xvit
from xvit.ablation.grid import ORDERS, TABLES
from xvit.ablation.run import Measured
from xvit.visualize import plot_ablation

HEADS = ("", "top-1 here, %", "the paper's, %", "10⁶ MACs", "ms a clip")
NOTE = (
    "Top-1 on held-out videos of the built-in data set, mean ± standard deviation over the seeds. The paper's figures "
    "are of ViT-B/16 on Something-Something v2: compare which row is above which, not the numbers."
)


def cells(table: str, measured: Mapping[str, Measured]) -> list[tuple[str, ...]]:
    """The lines of a table as texts, under `HEADS`."""
    lines: list[tuple[str, ...]] = []
    for row in TABLES[table].rows:
        ours = measured[row.model]
        spread = "" if ours.spread is None else f" ± {100 * ours.spread:.1f}"
        low, high = ours.quartiles
        lines.append(
            (
                row.name,
                f"{100 * ours.mean:.1f}{spread}",
                "" if row.paper is None else f"{row.paper:.1f}",
                f"{ours.macs / 1e6:.1f}",
                f"{ours.milliseconds:.2f} [{low:.2f}, {high:.2f}]",
            )
        )
    return lines


def orders(measured: Mapping[str, Measured]) -> list[str]:
    """For each order that the paper finds, whether it is seen here, where both models were trained."""
    return [_compared(*pair, measured) for pair in ORDERS if all(name in measured for name in pair)]


def _compared(worse: str, better: str, measured: Mapping[str, Measured]) -> str:
    one, other = measured[worse], measured[better]
    if max(one.top1) < min(other.top1):
        seen = "seen: each seed of the one is below each of the other"
    elif one.mean < other.mean:
        seen = "seen in the means only"
    else:
        seen = "NOT seen"
    return f"[{worse}] {100 * one.mean:.1f} % below [{better}] {100 * other.mean:.1f} %, as in the paper: {seen}"


def write_report(
    output: str | Path, tables: Sequence[str], measured: Mapping[str, Measured], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ablation.json, ablation.md and ablation.png.

    Args:
        output: the folder.
        tables: keys of `TABLES`.
        measured: their models.
        settings: of the run, for the JSON.

    Returns:
        What ablation.json holds.
    """
    output = Path(output)
    seeds = len(next(iter(measured.values())).top1)
    versions = {"xvit": xvit.__version__, "torch": str(torch.__version__)}
    lines = [f"{NOTE} {seeds} {'seed' if seeds == 1 else 'seeds'}; torch {torch.__version__}.", ""]
    for table in tables:
        lines += [f"**{TABLES[table].title}**", "", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        lines += [f"| {' | '.join(line)} |" for line in cells(table, measured)]
        lines += [""]
    lines += [f"- {told}" for told in orders(measured)]
    values = {
        "settings": settings,
        "versions": versions,
        "models": {name: asdict(one) | {"mean": one.mean, "spread": one.spread} for name, one in measured.items()},
        "tables": {table: asdict(TABLES[table]) for table in tables},
        "orders": orders(measured),
    }
    _write(output / "ablation.json", json.dumps(values, indent=2) + "\n")
    _write(output / "ablation.md", "\n".join(lines) + "\n")
    panels = {
        TABLES[table].title: [
            (row.name, [100 * share for share in measured[row.model].top1], row.paper) for row in TABLES[table].rows
        ]
        for table in tables
    }
    plot_ablation(panels, output / "ablation.png")
    return values


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
