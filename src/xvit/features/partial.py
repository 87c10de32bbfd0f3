"""The state of an unfinished extraction, in the folder `.NAME.partial` beside its output.

run.json        what the values depend on: model, clip spec, level, videos with their sizes, library versions, device;
                an extraction with other ones does not continue this one
values          the rows of all videos read, float32, one after the other; failed videos have none
journal.jsonl   one line per batch, written after its rows are on disk: a batch without a complete line is repeated
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from xvit.config import describe_change
from xvit.data.record import compare_rows
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text, parse_json
from xvit.utils.text import read_text

VALUES = "values"
_RUN, _JOURNAL = "run.json", "journal.jsonl"


@dataclass
class PartialExtraction:
    """An unfinished extraction, opened by `open_partial`."""

    done: int  # number of videos done, failed ones included
    failed: dict[int, str]  # reasons of the failed videos, by index
    warnings: dict[int, list[str]]  # what is wrong with videos that were read, by index
    values: IO[bytes]
    journal: IO[bytes]

    def append(
        self, rows: bytes, *, done: int, failed: Mapping[int, str], warnings: Mapping[int, Sequence[str]]
    ) -> None:
        """Append the rows of a batch, and flush them to the disk."""
        line = json.dumps({"done": done, "failed": failed, "warnings": warnings}).encode() + b"\n"
        for file, data in ((self.values, rows), (self.journal, line)):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.done = done
        self.failed |= dict(sorted(failed.items()))
        self.warnings |= {index: list(texts) for index, texts in sorted(warnings.items())}


def partial_folder(output: Path) -> Path:
    """The folder of an unfinished extraction to `output`."""
    return output.with_name(f".{output.name}.partial")


@contextmanager
def open_partial(
    output: Path, run: Mapping[str, Any], row_bytes: int, *, resume: bool = True
) -> Iterator[PartialExtraction]:
    """Open the unfinished extraction to `output`, or begin one. Data after the last complete batch is cut off.

    `output` has to be locked (`xvit.utils.locks`).

    Args:
        run: everything that the values depend on, as plain values; "video_rows" are those of `xvit.data.record`.
        row_bytes: size of one row.
        resume: continue an unfinished extraction; otherwise start again.

    Raises:
        XViTError: the folder is damaged or belongs to an extraction with other settings.
    """
    folder = partial_folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _JOURNAL
    with open(folder / VALUES, "ab") as values, open(path, "ab") as journal:
        text = path.read_bytes() if resume else b""
        complete = text[: text.rfind(b"\n") + 1]
        done, failed, warnings = 0, dict[int, str](), dict[int, list[str]]()
        if complete:
            done, failed, warnings = _read_journal(folder, complete, run)
        else:
            atomic_write_text(folder / _RUN, json.dumps(run) + "\n")
        size = row_bytes * (done - len(failed))
        if values.tell() < size:
            raise XViTError(f"{folder}: damaged, values are missing; remove it to start again")
        values.truncate(size)
        journal.truncate(len(complete))
        yield PartialExtraction(done, failed, warnings, values, journal)


def _read_journal(
    folder: Path, journal: bytes, run: Mapping[str, Any]
) -> tuple[int, dict[int, str], dict[int, list[str]]]:
    """The number of videos done, and by index the reasons of failed ones and the warnings of others.

    The extraction has to be that of `run`.
    """
    done, failed, warnings = 0, dict[int, str](), dict[int, list[str]]()
    try:
        changes = _describe_changes(parse_json(read_text(folder / _RUN)), run)
        for line in map(parse_json, journal.splitlines()):
            done = int(line["done"])
            failed |= {int(index): str(reason) for index, reason in line["failed"].items()}
            warnings |= {int(index): [*map(str, texts)] for index, texts in line["warnings"].items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError):
        raise XViTError(f"{folder}: damaged or of another version of xvit; remove it to start again") from None
    if changes:
        raise XViTError(
            f"{folder}: an unfinished extraction whose {changes}; undo this change, choose another output, or remove "
            "that folder"
        )
    return done, failed, warnings


def _describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the videos or one of the settings changed; empty if they did not."""
    if videos := compare_rows(before["video_rows"], now["video_rows"], lambda label, _: label):
        return f"videos changed: {videos}"
    return describe_change(before, now, ["video_rows"])
