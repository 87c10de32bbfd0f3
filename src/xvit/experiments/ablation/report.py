"""The tables of an ablation: ours measured, the paper's beside them and marked as the paper's."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xvit.experiments.ablation.grid import ORDERS, TABLES, Row
from xvit.experiments.ablation.run import Measured
from xvit.utils.files import atomic_write_text
from xvit.utils.version import __version__
from xvit.visualize.plots import plot_ablation

HEADS = ("", "top-1 here, %", "the paper's, %", "10⁶ MACs", "ms a clip")
NOTE = (
    "Top-1 on held-out videos of the built-in data set, mean ± standard deviation over the seeds. The paper's figures "
    "are of ViT-B/16 on Something-Something v2 (K400: Kinetics-400): compare which row is above which, not the numbers."
)


def note(measured: Mapping[str, Measured]) -> str:
    """What the tables' figures are, and of how many seeds."""
    seeds = len(next(iter(measured.values())).top1)
    return f"{NOTE} {f'{seeds} seeds.' if seeds > 1 else 'One seed: no spread.'}"


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
                _papers(row),
                f"{ours.macs / 1e6:.1f}",
                f"{ours.milliseconds:.2f} [{low:.2f}, {high:.2f}]",
            )
        )
    return lines


def _papers(row: Row) -> str:
    if row.paper is None:
        return ""
    return f"{row.paper:.1f}" if row.kinetics is None else f"{row.paper:.1f} (K400: {row.kinetics:.1f})"


def orders(measured: Mapping[str, Measured]) -> list[str]:
    """For each order that the paper finds, whether it is seen here, where both models were trained."""
    return [_compared(*pair, measured) for pair in ORDERS if all(name in measured for name in pair)]


def _compared(worse: str, better: str, measured: Mapping[str, Measured]) -> str:
    one, other = measured[worse], measured[better]
    seen = "seen" if one.mean < other.mean else "NOT seen"
    if one.spread is None or other.spread is None:
        beside = "one seed: no spread"
    else:
        spread = math.hypot(one.spread, other.spread)  # of the difference of two trainings
        within = "within" if abs(other.mean - one.mean) <= spread else "beyond"
        beside = f"the difference, {100 * (other.mean - one.mean):+.1f}, is {within} the spread, {100 * spread:.1f}"
    means = f"here {100 * one.mean:.1f} % and {100 * other.mean:.1f} %"
    return f"the paper's [{worse}] below [{better}]: {seen}: {means}; {beside}"


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
    versions = {"xvit": __version__, "torch": str(torch.__version__)}
    lines = [f"{note(measured)} xvit {__version__}, torch {torch.__version__}.", ""]
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
    atomic_write_text(output / "ablation.json", json.dumps(values, indent=2) + "\n")
    atomic_write_text(output / "ablation.md", "\n".join(lines) + "\n")
    panels = {
        TABLES[table].title: [
            (row.name, [100 * share for share in measured[row.model].top1], row.paper) for row in TABLES[table].rows
        ]
        for table in tables
    }
    plot_ablation(panels, output / "ablation.png")
    return values
