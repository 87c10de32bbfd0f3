"""The rows of metrics.jsonl and bad_videos.jsonl in a run folder."""

import json
import math
from pathlib import Path
from typing import Any

from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text

METRICS, BAD_VIDEOS = "metrics.jsonl", "bad_videos.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of METRICS or BAD_VIDEOS, without a last one that has no end.

    Raises:
        XViTError: a damaged row; the message names its line.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not _is_row(path.name, row):
            shown = line[:40].decode(errors="backslashreplace")
            kind = 'a metric row with "step"' if path.name == METRICS else 'a video with "path"'
            raise XViTError(f"{path} line {number}: damaged: expected {kind}, got {shown!r}; remove this line")
        rows.append(row)
    return rows


def _is_row(name: str, row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    if name == METRICS:
        return type(row.get("step")) is int
    return isinstance(row.get("path"), str) and row.get("outcome", "skipped") in ("skipped", "used")


def truncate_rows(path: Path, last_step: float = math.inf) -> None:
    """Delete the rows of later steps, and a last row without its end."""
    if path.exists():
        rows = [row for row in read_rows(path) if row.get("step", 0) <= last_step]
        atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
