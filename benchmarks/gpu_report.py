"""The tables of gpu.py in Markdown."""

from collections.abc import Sequence
from typing import Any


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of all parts that were measured."""
    machine = result["machine"]
    lines = [f"{machine['device']}, torch {machine['torch']}, timm {machine['timm']}, {machine['date']}.", ""]
    for part, seconds in result["seconds"].items():
        lines += [f"## {part} ({seconds:.0f} s)", ""]
        if part in result["errors"]:
            lines += [f"Failed: {result['errors'][part]}", ""]
        else:
            lines += _TABLES[part](result[part])
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _checks(checks: dict[str, list[dict[str, Any]]]) -> list[str]:
    kinds = ("fp32", "gradients", "bf16", "bf16 gradients", "fp16", "fp16 gradients")
    models = [
        (row["model"], *(f"{row[kind]:.0e}" for kind in kinds), "yes" if row["passed"] else "**no**")
        for row in checks["models"]
    ]
    forms = [
        (row["compared"], f"{row['difference']:.0e}", "yes" if row["passed"] else "**no**") for row in checks["forms"]
    ]
    title = "Largest difference from the CPU in fp32, as a share of the largest value:"
    return [
        title,
        "",
        *_table(("model", *kinds, "passed"), models),
        *_table(("two computations on the device", "difference", "passed"), forms),
    ]


def _times(groups: list[dict[str, Any]]) -> list[str]:
    lines = []
    for group in groups:
        setting = group["setting"]
        how = "compiled" if setting["compiled"] else "eager"
        size = f"{setting['backbone']}, {setting['batch_size']} clips of {setting['frames']} frames"
        lines += [
            f"{setting['mode']}, {setting['precision']}, {how}: {size}, {setting['rounds']} rounds",
            "",
        ]
        lines += _models(group["models"])
    return lines


def _models(models: dict[str, dict[str, float]]) -> list[str]:
    rows = [
        (
            name,
            f"{row['milliseconds']:.2f}",
            f"{row['launch_milliseconds']:.2f}",
            f"{row['clips_per_second']:.0f}",
            f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})",
            f"{row['step_bytes'] / 2**20:.0f}",
        )
        for name, row in models.items()
    ]
    first = next(iter(models))
    columns = ("model", "ms a step", "to launch it (ms)", "clips/s", f"over {first} (95 %)", "memory of a step (MiB)")
    return _table(columns, rows)


def _streams(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        state = f"{row['state_bytes_per_stream'] / 2**20:.1f} MiB of state each"
        lines += [f"{row['streams']} streams, bf16, {state}", "", *_models(row["models"])]
    return lines


def _loader(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("backbone", "worker processes", "loader alone (clips/s)", "training alone", "together", "share")
    values = [
        (
            row["backbone"],
            row["num_workers"],
            *(f"{row[key]:.0f}" for key in ("loader", "training", "together")),
            f"{100 * row['share']:.0f} %",
        )
        for row in rows
    ]
    return _table(columns, values)


def _motion(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['clips']} clips (made in {row['seconds_data']:.0f} s), {row['epochs']} epochs in "
        f"{row['seconds_training']:.0f} s: top-1 {100 * row['top1']:.2f} % of {row['videos']} validation videos.\n"
        for row in rows
    ]


_TABLES: dict[str, Any] = {
    "checks": _checks,
    "mixing": _times,
    "variants": _times,
    "stream": _streams,
    "peers": _times,
    "loader": _loader,
    "motion": _motion,
}
