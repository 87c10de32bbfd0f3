"""The results of an ablation study as tables and a picture, beside the paper's figures."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from xvit.experiments import common
from xvit.experiments.ablation.grid import TABLES, Comparison, Row, paper_comparisons
from xvit.experiments.ablation.paired import Difference, SeedNoise, paired_difference
from xvit.experiments.ablation.run import ModelResult
from xvit.utils.files import atomic_write_text, write_json
from xvit.utils.version import __version__
from xvit.visualize import plot_differences

COLUMNS = ("", "top-1 here, %", "difference, points", "paper, %", "difference", "10⁶ MACs", "learning rate")
FINDING_COLUMNS = ("above", "below", "points in the paper", "points here", "sign")

Results = Mapping[str, ModelResult]


@dataclass(frozen=True)
class Finding:
    """One of the paper's comparisons, and the difference that was measured here."""

    comparison: Comparison
    difference: Difference

    @property
    def has_the_sign(self) -> bool:
        """Whether the difference has the paper's sign, clear of zero or not."""
        return self.difference.points > 0

    @property
    def verdict(self) -> str:
        """In words, for the last column."""
        if self.difference.points == 0:
            return "no difference"
        sign = "the paper's" if self.has_the_sign else "opposite"
        return sign if self.difference.is_clear else f"{sign}, not clear of zero"


def findings(results: Results) -> list[Finding]:
    """The paper's comparisons whose two models were trained."""
    noise = SeedNoise.pool(result.correct for result in results.values())
    return [
        Finding(
            comparison, paired_difference(results[comparison.lower].correct, results[comparison.higher].correct, noise)
        )
        for comparison in paper_comparisons()
        if comparison.lower in results and comparison.higher in results
    ]


def caption(results: Results) -> str:
    """What the numbers in the tables are."""
    seeds, clips = next(iter(results.values())).correct.shape
    statistic = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    intervals = "with 95 % intervals" if seeds > 1 else "without intervals, which need several seeds"
    return (
        f"Top-1 on {clips:,} test clips, {statistic}; differences from the first row, paired by clip and seed, "
        f"{intervals}. The paper's figures are for ViT-B/16 on Something-Something v2."
    )


def summary(found: Sequence[Finding]) -> str:
    """How many of the paper's differences have the same sign here."""
    same = [finding for finding in found if finding.has_the_sign]
    clear = sum(finding.difference.is_clear for finding in same)
    opposite = sum(finding.difference.is_clear for finding in found if not finding.has_the_sign)
    return (
        f"{len(same)} of the paper's {len(found)} differences of at least 0.9 points have the same sign here, {clear} "
        f"of them clear of zero; {opposite} are clearly opposite."
    )


def table_rows(table: str, results: Results) -> list[tuple[str, ...]]:
    """The rows of a table as text, one cell for each of `COLUMNS`."""
    noise = SeedNoise.pool(result.correct for result in results.values())
    first, *_ = rows = TABLES[table].rows
    return [_cells(row, first, results, noise) for row in rows]


def _cells(row: Row, first: Row, results: Results, noise: SeedNoise) -> tuple[str, ...]:
    result = results[row.model]
    std = "" if len(result.top1) == 1 else f" ± {100 * statistics.stdev(result.top1):.1f}"
    is_first = row is first
    difference = "" if is_first else str(paired_difference(results[first.model].correct, result.correct, noise))
    paper = "" if row.paper_top1 is None else f"{row.paper_top1:.1f}"
    has_both = row.paper_top1 is not None and first.paper_top1 is not None and not is_first
    paper_difference = f"{row.paper_top1 - first.paper_top1:+.1f}" if has_both else ""  # type: ignore[operator]
    top1 = f"{100 * statistics.mean(result.top1):.1f}{std}"
    return row.name, top1, difference, paper, paper_difference, f"{result.macs / 1e6:.1f}", f"{result.lr:g}"


def finding_rows(found: Sequence[Finding]) -> list[tuple[str, ...]]:
    """One row for each finding, one cell for each of `FINDING_COLUMNS`."""
    return [
        (f.comparison.higher, f.comparison.lower, f"{f.comparison.gap:+.1f}", str(f.difference), f.verdict)
        for f in found
    ]


def write_report(
    output: str | Path, tables: Sequence[str], results: Results, settings: Mapping[str, Any]
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
    output, found = Path(output), findings(results)
    lines = [f"{caption(results)} xvit {__version__}, torch {torch.__version__}.", ""]
    for table in tables:
        lines += [f"**{TABLES[table].title}**", "", *common.markdown_table(COLUMNS, table_rows(table, results)), ""]
    lines += ["**The paper's differences of at least 0.9 points**", "", summary(found), ""]
    lines += common.markdown_table(FINDING_COLUMNS, finding_rows(found))
    report = {
        "settings": settings,
        "versions": {"xvit": __version__, "torch": str(torch.__version__)},
        "models": {name: result.to_dict() for name, result in results.items()},
        "tables": {table: asdict(TABLES[table]) for table in tables},
        "findings": [asdict(f.comparison) | asdict(f.difference) | {"sign": f.verdict} for f in found],
    }
    write_json(output / "ablation.json", report)
    atomic_write_text(output / "ablation.md", "\n".join(lines) + "\n")
    if found:
        plot_differences(
            [
                (
                    f"{f.comparison.higher} − {f.comparison.lower}",
                    f.difference.points,
                    f.difference.margin,
                    f.comparison.gap,
                )
                for f in found
            ],
            output / "ablation.png",
        )
    return report
