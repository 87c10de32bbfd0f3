"""Reading the ground truth of videos, and writing segments as JSON, CSV and subtitles."""

import csv
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from xvit.timeline.segments import Segment
from xvit.utils.errors import XViTError, did_you_mean, one_line
from xvit.utils.files import atomic_write_text, parse_json
from xvit.utils.text import printable, read_text, spreadsheet_cell


def read_ground_truth(path: str | Path, class_names: Sequence[str]) -> dict[Path, list[Segment]]:
    """Read the true segments of videos, for example from the file that `xvit data motion --concatenate` writes.

    Args:
        path: a JSON file: {"video.mp4": [{"start": seconds, "end": seconds, "label": class}, ...], ...}; paths of
            videos are relative to the file's folder.
        class_names: the classes that a segment may have.

    Returns:
        The segments of each video, in order, by its absolute path.

    Raises:
        XViTError: the file does not exist or has another form, a class is unknown, or segments overlap.
    """
    path = Path(path)
    try:
        videos = parse_json(read_text(path))
    except XViTError:
        raise
    except ValueError as error:
        raise XViTError(f"{path}: not readable as JSON: {one_line(error)}") from None
    if not isinstance(videos, dict):
        raise XViTError(f"{path}: expected a mapping of videos to segments, got {type(videos).__name__}")
    return {
        (path.parent / name).resolve(): _parse_segments(rows, class_names, f"{path}: {name}")
        for name, rows in videos.items()
    }


def to_json(value: Any) -> str:
    """The value as a JSON document."""
    return json.dumps(value, indent=2) + "\n"


def to_csv(segments: Sequence[Segment]) -> str:
    """Segments as CSV, one row each: start and end in seconds, label, score.

    No label is read as a formula by a spreadsheet.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start", "end", "label", "score"])
    for segment in segments:
        score = "" if segment.score is None else f"{segment.score:.4f}"
        writer.writerow([f"{segment.start:.3f}", f"{segment.end:.3f}", spreadsheet_cell(segment.label), score])
    return text.getvalue()


def to_srt(segments: Sequence[Segment]) -> str:
    """Segments as subtitles in SubRip format, which video players display."""
    blocks = []
    for number, segment in enumerate(segments, start=1):
        label = printable(" ".join(segment.label.split()))  # an empty line would end the subtitle
        score = "" if segment.score is None else f" ({100 * segment.score:.0f} %)"
        blocks.append(f"{number}\n{_timestamp(segment.start)} --> {_timestamp(segment.end)}\n{label}{score}\n")
    return "\n".join(blocks)


def write_new_file(path: str | Path, text: str) -> None:
    """Write a text file atomically, with invalid Unicode characters escaped. Raises `XViTError` if it exists."""
    path = Path(path)
    if path.exists():
        raise XViTError(f"{path}: exists; remove it, or choose another --output")
    atomic_write_text(path, text.encode(errors="backslashreplace").decode())


def _parse_segments(rows: Any, class_names: Sequence[str], where: str) -> list[Segment]:
    if not isinstance(rows, list):
        raise XViTError(f"{where}: expected a list of segments, got {type(rows).__name__}")
    segments = []
    for number, row in enumerate(rows, start=1):
        try:
            segment = Segment(start=float(row["start"]), end=float(row["end"]), label=row["label"])
        except (KeyError, TypeError, ValueError) as error:
            reason = one_line(error, name=not isinstance(error, XViTError))
            raise XViTError(f"{where}: segment {number}: expected start, end and label ({reason})") from None
        if segment.label not in class_names:
            raise XViTError(
                f'{where}: segment {number}: class "{segment.label}" is not one of the {len(class_names)} classes of '
                f"the model.{did_you_mean(segment.label, class_names)}"
            )
        segments.append(segment)
    segments.sort(key=lambda segment: segment.start)
    for before, after in pairwise(segments):
        if before.end > after.start + 1e-6:  # seconds: bounds may be rounded
            raise XViTError(f"{where}: segments overlap at {after.start} s")
    return segments


def _timestamp(seconds: float) -> str:
    """hours:minutes:seconds,milliseconds"""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"
