"""The tables of `real.py` in Markdown."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

import real_use
from real_tasks import CONTROLS, TASKS
from real_training import SCHEMES, TUNE
from xvit.experiments.common import markdown_table

_RESAMPLES = 4000
Key = tuple[str, str, str]  # task, scheme, tune


def accuracies(runs: list[dict[str, Any]]) -> dict[Key, np.ndarray]:
    """Share of the two clips of each window whose class was found, (seeds, windows), for each kind of training."""
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["seed"]):
        found = np.array([int(digit) for digit in run["found"]], dtype=float)
        groups[run["task"], run["scheme"], run["tune"]].append(found.reshape(-1, 2).mean(axis=1))
    return {key: np.stack(values) for key, values in groups.items()}


def difference_interval(differences: np.ndarray, blocks: list[list[int]]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of paired differences (seeds, windows).

    Seeds and blocks of neighbouring windows are drawn with replacement: windows of a block are not independent.
    """
    rng = np.random.default_rng(0)
    sums = np.stack([differences[:, block].sum(axis=1) for block in blocks], axis=1)  # (seeds, blocks)
    sizes = np.array([len(block) for block in blocks])
    means = []
    for _ in range(_RESAMPLES):
        seeds, drawn = (rng.integers(size, size=size) for size in sums.shape)
        means.append(sums[seeds][:, drawn].mean(axis=0).sum() / sizes[drawn].sum())
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def tables(result: dict[str, Any]) -> str:
    """All tables for which there are numbers."""
    lines = [*_accuracy_table(result), "", *_control_table(result)] if result.get("runs") else []
    if windows := result.get("windows"):
        lines += ["", *_accuracy_table(windows, f"head, {windows['runs'][0]['windows']} windows")]
    if earlier := result.get("earlier"):
        lines += ["", *_accuracy_table(earlier, "head, tested on the first part")]
    if result.get("shares") and result.get("runs"):
        lines += ["", *_footage_table(result)]
    for name, columns in (
        ("agreement", ("model", "same class as the float32 model", "accuracy", "largest difference", "GMACs a clip")),
        ("patches", ("video", "size", *(f"unchanged at {threshold:g}" for threshold in real_use.THRESHOLDS))),
        ("times", ("stream", "size", "milliseconds a frame")),
    ):
        if rows := result.get(name):
            lines += ["", *markdown_table(columns, rows)]
    return "\n".join(lines).strip()


def _accuracy_table(result: dict[str, Any], name: str = "") -> Iterator[str]:
    """Accuracy of each scheme, and how much better than spatial the mixing ones are; `name` is for the first column."""
    values, rows = accuracies(result["runs"]), []
    base, *others = SCHEMES
    for tune in TUNE:
        for task in TASKS:
            if (spatial := values.get((task, base, tune))) is None:
                continue
            row = [name or tune, task, _percent(spatial)]
            for scheme in others:
                mixing = values.get((task, scheme, tune))
                row += ["", ""] if mixing is None else _compare(mixing, spatial, result["blocks"])
            rows.append(row)
    columns = [column for scheme in others for column in (scheme, "over spatial, points")]
    return markdown_table(("trained", "task", base, *columns), rows)


def _footage_table(result: dict[str, Any]) -> Iterator[str]:
    """Accuracy of heads on parts of the footage and on all of it, and how much better the latter are."""
    shares = sorted({run["share"] for run in result["shares"]})
    parts = [accuracies([run for run in result["shares"] if run["share"] == share]) for share in shares]
    parts.append(accuracies(result["runs"]))
    rows = []
    for task in TASKS:
        key = (task, "mixing, replicate", "head")
        if all(key in part for part in parts):
            values = [part[key] for part in parts]
            rows.append([task, *map(_percent, values), _difference(values[-1], values[0], result["blocks"])])
    seconds = [f"{share * result['train_seconds']:.0f} s" for share in (*shares, 1)]
    return markdown_table(("task", *seconds, "last over first, points"), rows)


def _compare(mixing: np.ndarray, spatial: np.ndarray, blocks: list[list[int]]) -> list[str]:
    return [_percent(mixing), _difference(mixing, spatial, blocks)]


def _difference(values: np.ndarray, others: np.ndarray, blocks: list[list[int]]) -> str:
    """Points by which accuracies are above others, bold if the interval is clear of zero."""
    seeds = min(len(values), len(others))
    differences = 100 * (values[:seeds] - others[:seeds])
    low, high = difference_interval(differences, blocks)
    text = f"{differences.mean():+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _control_table(result: dict[str, Any]) -> Iterator[str]:
    """Accuracy of the models of seed 0 on clips without the order, and without motion, over all ways to train."""
    rows = []
    for task in TASKS:
        for scheme in SCHEMES:
            runs = [run for run in result["runs"] if (run["task"], run["scheme"], run["seed"]) == (task, scheme, 0)]
            if runs:
                found = ["".join(run["found"] for run in runs)]
                found += ["".join(run["controls"][name] for run in runs) for name in CONTROLS]
                rows.append([task, scheme, *(f"{100 * digits.count('1') / len(digits):.1f} %" for digits in found)])
    return markdown_table(("task", "scheme", "as they are", *CONTROLS), rows)


def _percent(values: np.ndarray) -> str:
    """The mean, and its range over the seeds."""
    seeds = 100 * values.mean(axis=1)
    return f"{seeds.mean():.1f} % ({seeds.min():.1f} to {seeds.max():.1f})"
