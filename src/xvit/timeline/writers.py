"""Segments to files and back: JSON, tables, subtitles; the truth of a set of videos."""

import csv
import io
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from xvit.timeline.segments import Segment
from xvit.utils.errors import XViTError, did_you_mean


def read_truth(path: str | Path, labels: Sequence[str]) -> dict[Path, list[Segment]]:
    """The right segments of videos, from a file such as `xvit data motion --joined` writes.

    Args:
        path: a JSON file: {"video.mp4": [{"start": seconds, "end": seconds, "label": class}, ...], ...}; videos are
            named from the folder that the file lies in.
        labels: the classes that there are.

    Returns:
        The segments of each video, in order, by its absolute path.

    Raises:
        XViTError: no such file, not of this form, unknown classes, segments that overlap.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise XViTError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise XViTError(f"{path}: not readable as JSON: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise XViTError(f"{path}: expected segments by video, got {type(values).__name__}")
    return {(path.parent / name).resolve(): _segments(rows, labels, f"{path}: {name}") for name, rows in values.items()}


def to_json(value: Any) -> str:
    """One JSON document."""
    return json.dumps(value, indent=2) + "\n"


def to_csv(segments: Sequence[Segment]) -> str:
    """A line a segment: start and end in seconds, label, score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start", "end", "label", "score"])
    for segment in segments:
        score = "" if segment.score is None else f"{segment.score:.4f}"
        writer.writerow([f"{segment.start:.3f}", f"{segment.end:.3f}", segment.label, score])
    return text.getvalue()


def to_srt(segments: Sequence[Segment]) -> str:
    """Subtitles, which players show beside the video."""
    blocks = []
    for number, segment in enumerate(segments, start=1):
        said = " ".join(segment.label.split())  # an empty line would end the subtitle
        score = "" if segment.score is None else f" ({100 * segment.score:.0f} %)"
        blocks.append(f"{number}\n{_stamp(segment.start)} --> {_stamp(segment.end)}\n{said}{score}\n")
    return "\n".join(blocks)


def write_new(path: str | Path, text: str) -> None:
    """Write a file that is not there yet: beside, then renamed, so that at no moment there is half of one.

    Raises:
        XViTError: it exists.
    """
    path = Path(path)
    if path.exists():
        raise XViTError(f"{path}: exists; remove it, or choose another --output")
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _segments(rows: Any, labels: Sequence[str], where: str) -> list[Segment]:
    if not isinstance(rows, list):
        raise XViTError(f"{where}: expected a list of segments, got {type(rows).__name__}")
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            segment = Segment(start=float(row["start"]), end=float(row["end"]), label=row["label"])
        except (KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, XViTError) else f"{type(error).__name__}: {error}"
            raise XViTError(f"{where}: segment {number}: expected start, end and label ({reason})") from None
        if segment.label not in labels:
            raise XViTError(
                f'{where}: segment {number}: class "{segment.label}" is not one of the {len(labels)} that the model '
                f"knows.{did_you_mean(segment.label, labels)}"
            )
        found.append(segment)
    found.sort(key=lambda segment: segment.start)
    for before, after in pairwise(found):
        if before.end > after.start + 1e-6:  # seconds: bounds may be rounded
            raise XViTError(f"{where}: segments overlap at {after.start} s")
    return found


def _stamp(seconds: float) -> str:
    """hours:minutes:seconds,milliseconds"""
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"
