"""The folder that a job writes.

OUTPUT/job.json               what the rows are made of: model, clip, options, inputs, part size, versions
OUTPUT/parts/00000.parquet    the rows of the inputs 0 to 255 (with 256 inputs in a part); written whole
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvit.config import describe_change
from xvit.utils.errors import XViTError, import_optional, one_line
from xvit.utils.files import holds_something, publish, read_json, sync, write_errors

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
    """The output folder of a job, as one shard of it uses the folder.

    Args:
        path: the folder, new or of the same job.
        part_size: inputs per part.
        total: number of inputs.
        shard: (i, n): the parts i, i + n, i + 2n, ...

    Attributes:
        numbers: of the shard's parts.
    """

    def __init__(self, path: str | Path, *, part_size: int, total: int, shard: tuple[int, int]) -> None:
        self.path = Path(path)
        index, num_shards = shard
        self.numbers = range(index, math.ceil(total / part_size), num_shards)
        # Of the shard alone, because parts of other shards can be the same. Not among the parts: a kill leaves it.
        self._tmp_path = self.path / f".shard-{index}-of-{num_shards}.writing"

    def open(self, manifest: Mapping[str, Any]) -> str:
        """Create the folder, or check that its rows are made of the same. Returns which versions differ, if any do.

        Raises:
            XViTError: the folder holds something else, or another job; it cannot be written.
        """
        file = self.path / JOB
        # In this order: another shard may create the file meanwhile.
        if holds_something(self.path) and not self._is_empty() and not file.exists():
            raise XViTError(f"{self.path}: exists and holds no job; choose another --output")
        with write_errors(self.path):
            (self.path / PARTS).mkdir(parents=True, exist_ok=True)
        if not file.exists():
            self._create(file, manifest)
        before = read_json(file)
        if not isinstance(before, dict) or before.get("format") != FORMAT:
            raise XViTError(f"{file}: damaged, or of another version of xvit; choose another --output")
        if change := describe_change(before, manifest, [f"versions.{name}" for name in manifest["versions"]]):
            raise XViTError(f"{self.path}: holds rows of another job, whose {change}; {_ADVICE}")
        pairs = {name: (before["versions"].get(name), now) for name, now in manifest["versions"].items()}
        return ", ".join(f"{name} {old} (now {now})" for name, (old, now) in pairs.items() if old != now)

    def _is_empty(self) -> bool:
        """Whether there is nothing but an empty folder of parts, left by a process that was killed at its start."""
        names = [child.name for child in self.path.iterdir() if not child.name.startswith(".")]
        return names in ([], [PARTS]) and not holds_something(self.path / PARTS)

    def _create(self, file: Path, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, unless another shard has done so meanwhile."""
        with write_errors(file):
            try:
                self._tmp_path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
                sync(self._tmp_path)
                try:
                    os.link(self._tmp_path, file)  # unlike a rename, never replaces the file
                    sync(self.path)
                except FileExistsError:
                    pass
                except OSError:  # a file system without hard links
                    publish(self._tmp_path, file)
            finally:
                self._tmp_path.unlink(missing_ok=True)

    def part_path(self, number: int) -> Path:
        """The file of a part."""
        return self.path / PARTS / f"{number:05d}.parquet"

    def missing(self) -> list[int]:
        """Numbers of the shard's parts that are not there."""
        present = set(os.listdir(self.path / PARTS))
        return [number for number in self.numbers if self.part_path(number).name not in present]

    def write(self, number: int, table: Any) -> None:
        """Write a part: an Arrow table. It appears under its name when it is complete and on the disk."""
        parquet = import_optional("pyarrow.parquet", extra="batch")
        path = self.part_path(number)
        with write_errors(path):
            try:
                with self._tmp_path.open("wb") as file:  # Arrow takes some names for addresses
                    parquet.write_table(table, file, compression="zstd")
                publish(self._tmp_path, path)
            finally:
                self._tmp_path.unlink(missing_ok=True)

    def count(self, max_named: int) -> tuple[int, int, tuple[tuple[str, str], ...]]:
        """The number of rows of the shard, that of failed inputs, and path and error of the first ones of these.

        Raises:
            XViTError: a part is damaged.
        """
        rows = failed = 0
        failures: list[tuple[str, str]] = []
        for number in self.numbers:
            part = self._read(number)
            of_part = [(path, error) for path, status, error in part if status != OK]
            rows, failed = rows + len(part), failed + len(of_part)
            failures += of_part[: max_named - len(failures)]
        return rows, failed, tuple(failures)

    def _read(self, number: int) -> list[tuple[str, str, str]]:
        """Path, status and error of each row of a part."""
        parquet = import_optional("pyarrow.parquet", extra="batch")
        path = self.part_path(number)
        try:
            with path.open("rb") as file:
                table = parquet.ParquetFile(file).read(columns=["path", "status", "error"])
            return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        except Exception as error:  # a damaged file can fail anywhere in the library
            reason = one_line(error)
            raise XViTError(f"{path}: damaged ({reason}); delete it and run the same command again") from None


def text_column(text: str) -> str:
    """A path or message as valid UTF-8, which Parquet requires: other bytes are written as \\xff."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
