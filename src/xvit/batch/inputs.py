"""The inputs of a job: a text file, a Parquet file or a folder. Nothing is opened: there may be millions of them."""

import codecs
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from xvit.data.annotations import find_videos
from xvit.data.shards import is_shard, shard_of
from xvit.utils.errors import XViTError, import_optional, one_line
from xvit.utils.files import check_exists

PATH_COLUMN = "path"
_MAX_LINE = 65_536  # bytes
_TRIED = 100  # of the first paths of a list, to find out which folder they are relative to


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of a job, in their order. An input that is listed twice has two rows.

    Args:
        paths: as they are listed: paths of videos or folders of frames, or addresses.
        folder: what relative paths are relative to, an absolute path.
    """

    paths: list[str]
    folder: str

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def hash(self) -> str:
        """Hash of the paths and their order, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(path) + b"\0")
        return digest.hexdigest()[:16]

    @property
    def any_relative(self) -> bool:
        """Whether it depends on the folder which inputs these are."""
        return not all(map(_is_absolute, self.paths))


def read_inputs(source: str | Path) -> Inputs:
    """Read the inputs of a job.

    Args:
        source: a text file with a path or an address per line, a .parquet with a column "path", a shard, or a folder,
            in which videos are searched. Relative paths of a file are relative to its folder, or to the working
            directory if the first of them are found there and not in its folder.

    Raises:
        XViTError: no such file or folder, no inputs, a line with more than a path, not a readable Parquet file.
    """
    check_exists(source)
    source = Path(source)
    if source.is_dir() or is_shard(source):
        return Inputs(paths=find_videos([source]), folder=os.getcwd())
    paths = _read_parquet(source) if source.suffix == ".parquet" else _read_lines(source)
    if not paths:
        raise XViTError(f"{source}: no inputs: expected a path per line, or rows with a {PATH_COLUMN}")
    folder = os.path.abspath(source.parent)
    relative = list(islice((path for path in paths if not _is_absolute(path)), _TRIED))
    if not any(_exists(folder, path) for path in relative) and any(_exists(os.getcwd(), path) for path in relative):
        folder = os.getcwd()
    return Inputs(paths=paths, folder=folder)


def locate(path: str, folder: str) -> str:
    """Where an input is: its path from any working directory, or its address."""
    return path if _is_absolute(path) else os.path.join(folder, path)


def _is_absolute(path: str) -> bool:
    return "://" in path or os.path.isabs(path)


def _exists(folder: str | Path, path: str) -> bool:
    try:
        place = os.path.join(folder, path)
        return os.path.exists(place) or bool(shard_of(place))
    except ValueError:  # a null character
        return False


def _read_lines(source: Path) -> list[str]:
    lines: list[str] = []
    with open(source, "rb") as file:
        # Not all at once: a list may have millions of lines, and another file a single one.
        for data in iter(lambda: file.readline(_MAX_LINE + 1), b""):
            line = data.removeprefix(codecs.BOM_UTF8) if not lines else data
            if b"\0" in line or len(line) > _MAX_LINE:
                raise XViTError(f"{source}: not a text file: expected a path per line, a .parquet, or a folder")
            if line.strip():
                lines.append(os.fsdecode(line.rstrip(b"\r\n")))
    for number, text in enumerate(lines[:_TRIED], start=1):
        path, separator, rest = text.rpartition("\t" if "\t" in text else "," if "," in text else " ")
        if separator and not _is_absolute(text) and not _exists(source.parent, text) and _exists(source.parent, path):
            hint = f"remove {separator + rest!r} from each line"
            raise XViTError(f"{source} line {number}: {text!r}: expected a path alone: {hint}")
    return lines


def _read_parquet(source: Path) -> list[str]:
    parquet = import_optional("pyarrow.parquet", extra="batch")
    try:
        with source.open("rb") as file:  # Arrow takes some names for addresses
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            if names.count(PATH_COLUMN) != 1:
                raise XViTError(f"{source}: expected one column {PATH_COLUMN!r}: it has {', '.join(names)}")
            column = table.read(columns=[PATH_COLUMN]).column(PATH_COLUMN)
            paths: list[Any] = column.to_pylist()
    except XViTError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the library
        raise XViTError(f"{source}: damaged, or not a Parquet file ({one_line(error)})") from None
    if column.null_count:
        raise XViTError(f"{source}: {column.null_count} rows without a {PATH_COLUMN}")
    for row, path in enumerate(paths):
        if not isinstance(path, str) or not path or "\0" in path:
            raise XViTError(f"{source} row {row}: {PATH_COLUMN} is {path!r}: expected text")
    return paths
