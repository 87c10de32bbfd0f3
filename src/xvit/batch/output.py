"""The folder that a job writes.

OUTPUT/job.json               what the rows are made of: model, clip, options, inputs, part size, versions
OUTPUT/parts/00000.parquet    the rows of the inputs 0 to 255 (with 256 inputs in a part); written whole
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvit.config import describe_change
from xvit.utils.errors import XViTError, import_optional
from xvit.utils.files import holds_something, publish, read_json, write_errors, write_json

FORMAT = 1
JOB, PARTS = "job.json", "parts"
OK, FAILED = "ok", "failed"
_ADVICE = "undo this change, or choose another --output"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some inputs that follow one another.

    Args:
        number: which part of the job it is.
        first: index of its first input.
        paths: its inputs, as they are listed.
    """

    number: int
    first: int
    paths: list[str]


class JobFolder:
    """The output folder of a job.

    Args:
        path: the folder, new or of the same job.
        part_size: inputs per part.
        total: number of inputs.
    """

    def __init__(self, path: str | Path, *, part_size: int, total: int) -> None:
        self.path, self.part_size, self.total = Path(path), part_size, total
        self.num_parts = math.ceil(total / part_size)

    def open(self, manifest: Mapping[str, Any]) -> str:
        """Create the folder, or check that its rows are made of the same. Returns which versions differ, if any do.

        Raises:
            XViTError: the folder holds something else, or another job; it cannot be written.
        """
        file = self.path / JOB
        if not file.exists() and holds_something(self.path) and not self._is_empty():
            raise XViTError(f"{self.path}: exists and holds no job; choose another --output")
        with write_errors(self.path):
            (self.path / PARTS).mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, manifest)
            return ""
        before = read_json(file)
        if not isinstance(before, dict) or before.get("format") != FORMAT:
            raise XViTError(f"{file}: damaged, or of another version of xvit; choose another --output")
        if change := describe_change(before, manifest, [f"versions.{name}" for name in manifest["versions"]]):
            raise XViTError(f"{self.path}: holds rows of another job, whose {change}; {_ADVICE}")
        pairs = {name: (before["versions"].get(name), now) for name, now in manifest["versions"].items()}
        return ", ".join(f"{name} {old} (now {now})" for name, (old, now) in pairs.items() if old != now)

    def _is_empty(self) -> bool:
        """Whether there is nothing but the folder of parts, left by a process that was killed before the first part."""
        return [child.name for child in self.path.iterdir() if not child.name.startswith(".")] in ([], [PARTS])

    def part_path(self, number: int) -> Path:
        """The file of a part."""
        return self.path / PARTS / f"{number:05d}.parquet"

    def missing(self, shard: int, num_shards: int) -> list[int]:
        """Numbers of the parts of a shard that are not there."""
        present = set(os.listdir(self.path / PARTS))
        return [
            number for number in range(shard, self.num_parts, num_shards) if self.part_path(number).name not in present
        ]

    def write(self, number: int, table: Any) -> None:
        """Write a part: an Arrow table. It appears under its name when it is complete and on the disk."""
        parquet = import_optional("pyarrow.parquet", extra="batch")
        path = self.part_path(number)
        tmp_path = self.path / f".{path.name}.writing"  # not among the parts, where a killed process would leave it
        with write_errors(path):
            try:
                parquet.write_table(table, tmp_path, compression="zstd")
                publish(tmp_path, path)
            finally:
                tmp_path.unlink(missing_ok=True)

    def count(self, numbers: Iterable[int], max_named: int) -> "Counts":
        """Count the rows of parts; of failed inputs, the first ones are named."""
        parquet = import_optional("pyarrow.parquet", extra="batch")
        counts = Counts()
        for number in numbers:
            table = parquet.read_table(self.part_path(number), columns=["path", "status", "error"])
            counts.rows += len(table)
            for path, status, error in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if status != OK:
                    counts.failed += 1
                    if len(counts.failures) < max_named:
                        counts.failures.append((path, error))
        return counts


@dataclass
class Counts:
    """Rows of parts, those of failed inputs, and the first of these: paths and errors."""

    def __init__(self) -> None:
        self.rows = self.failed = 0
        self.failures: list[tuple[str, str]] = []


def text_column(text: str) -> str:
    """A path or message as valid UTF-8, which Parquet requires: other bytes are written as \\xff."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
