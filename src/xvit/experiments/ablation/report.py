"""The results of an ablation study as tables, beside the paper's figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xvit.experiments import common
from xvit.experiments.ablation.grid import PAPER_RANKINGS, TABLES, Row
from xvit.experiments.ablation.run import ModelResult
from xvit.utils.files import atomic_write_text, write_json
from xvit.utils.version import __version__
from xvit.visualize import plot_ablation

COLUMNS = ("", "top-1 here, %", "top-1 in the paper, %", "10⁶ MACs", "ms per clip [quartiles]")


def caption(results: Mapping[str, ModelResult]) -> str:
    """What the numbers in the tables are."""
    seeds = len(next(iter(results.values())).top1)
    statistic = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"Top-1 on held-out videos of the built-in data set, {statistic}. The paper's figures are for ViT-B/16 on "
        "Something-Something v2 (K400: Kinetics-400): compare the order of the rows, not the numbers."
    )


def table_rows(table: str, results: Mapping[str, ModelResult]) -> list[tuple[str, ...]]:
    """The rows of a table as text, one cell for each of `COLUMNS`."""
    return [_cells(row, results[row.model]) for row in TABLES[table].rows]


def _cells(row: Row, result: ModelResult) -> tuple[str, ...]:
    std = "" if result.std is None else f" ± {100 * result.std:.1f}"
    paper = "" if row.paper_top1 is None else f"{row.paper_top1:.1f}"
    if row.paper_top1_k400 is not None:
        paper += f" (K400: {row.paper_top1_k400:.1f})"
    first, third = result.quartiles
    time = f"{result.ms_per_clip:.2f} [{first:.2f}, {third:.2f}]"
    return row.name, f"{100 * result.mean:.1f}{std}", paper, f"{result.macs / 1e6:.1f}", time


def compare_rankings(results: Mapping[str, ModelResult]) -> list[str]:
    """Whether each of the paper's rankings is reproduced, for those whose two models were trained."""
    return [_compare(*pair, results) for pair in PAPER_RANKINGS if all(name in results for name in pair)]


def _compare(lower: str, higher: str, results: Mapping[str, ModelResult]) -> str:
    first, second = results[lower], results[higher]
    difference = second.mean - first.mean
    if first.std is None or second.std is None:
        spread = "one seed, no standard deviation"
    else:
        std = math.hypot(first.std, second.std)  # of the difference between two trainings
        relation = "within" if abs(difference) <= std else "larger than"
        spread = f"the difference, {100 * difference:+.1f}, is {relation} its standard deviation, {100 * std:.1f}"
    outcome = "reproduced" if difference > 0 else "NOT reproduced"
    means = f"{100 * first.mean:.1f} % and {100 * second.mean:.1f} % here"
    return f"The paper ranks [{lower}] below [{higher}]: {outcome} ({means}; {spread})."


def write_report(
    output: str | Path, tables: Sequence[str], results: Mapping[str, ModelResult], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ablation.json, ablation.md and ablation.png.

    Args:
        output: the output directory.
        tables: keys of `TABLES`.
        results: the results of the tables' models.
        settings: the settings of the run, for the JSON file.

    Returns:
        The contents of ablation.json.
    """
    output, rankings = Path(output), compare_rankings(results)
    lines = [f"{caption(results)} xvit {__version__}, torch {torch.__version__}.", ""]
    for table in tables:
        lines += [f"**{TABLES[table].title}**", "", *common.markdown_table(COLUMNS, table_rows(table, results)), ""]
    lines += [f"- {line}" for line in rankings]
    report = {
        "settings": settings,
        "versions": {"xvit": __version__, "torch": str(torch.__version__)},
        "models": {name: asdict(result) | {"mean": result.mean, "std": result.std} for name, result in results.items()},
        "tables": {table: asdict(TABLES[table]) for table in tables},
        "rankings": rankings,
    }
    write_json(output / "ablation.json", report)
    atomic_write_text(output / "ablation.md", "\n".join(lines) + "\n")
    panels = {
        TABLES[table].title: [
            (row.name, [100 * top1 for top1 in results[row.model].top1], row.paper_top1) for row in TABLES[table].rows
        ]
        for table in tables
    }
    plot_ablation(panels, output / "ablation.png")
    return report
