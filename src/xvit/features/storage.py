"""Files of features: .safetensors, .npy and .parquet, written from raw rows without loading them, read back, checked.

N videos, T frames, P tokens a frame (prefix tokens first), D channels.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from xvit.config import ClipSpec, from_dict
from xvit.utils.errors import XViTError, check_choice, did_you_mean, import_optional

Level = Literal["clip", "frames", "tokens"]
LEVELS: tuple[str, ...] = ("clip", "frames", "tokens")
FORMAT = 1
_KEY, _TENSOR = "xvit", "features"  # of what is told about the values, and of the values
_HEADER_LIMIT = 100_000_000  # bytes: a longer header no reader of safetensors takes
_CHUNK = 1 << 24  # numbers in a row group of a .parquet


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Features of N videos, and what they are of.

    Args:
        values: (N, D), (N, T, D) or (N, T, P, D) float32, by the level.
        paths: the videos.
        labels: their classes; None where not known.
        level: clip, frames or tokens.
        model: hash of the model's weights and settings: features of equal hashes can be compared.
        clip: how the videos became the model's input.

    Raises:
        XViTError: values, paths and labels that do not go together.
    """

    values: np.ndarray
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    level: Level
    model: str
    clip: ClipSpec

    def __post_init__(self) -> None:
        check_choice("level", self.level, LEVELS)
        ndim = LEVELS.index(self.level) + 2
        if self.values.dtype != np.float32 or self.values.ndim != ndim:
            found = f"{self.values.dtype} of shape {self.values.shape}"
            raise XViTError(f"values: {found}: expected float32 of {ndim} dimensions for level={self.level!r}")
        if not len(self.values) == len(self.paths) == len(self.labels) > 0:
            counts = f"{len(self.values)} rows, {len(self.paths)} paths, {len(self.labels)} labels"
            raise XViTError(f"{counts}: expected as many of each, at least 1")


def read(path: str | Path) -> Features:
    """Read a file of features; the values of a .npy stay on disk until they are used. Runs nothing that is in a file.

    Raises:
        XViTError: no such file, an unknown format, a file that is damaged, of something else or of a newer version, a
            library that is missing.
    """
    path = Path(path)
    check_format(path)
    for file in (path, *sidecars(path)):
        if not file.is_file():
            raise XViTError(f"{file}: no such file")
    try:
        values, about = _FORMATS[path.suffix][1](path)
        newer = about["format"] > FORMAT
        named = {key: about[key] for key in ("level", "model", "clip", "paths", "labels")}
    except Exception as error:  # a damaged file can fail anywhere in three libraries
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise XViTError(f"{path}: not features written by xvit, or damaged ({reason})") from None
    if newer:
        raise XViTError(f"{path}: of format {about['format']}, this version reads up to {FORMAT}: pip install -U xvit")
    lists = isinstance(named["paths"], list) and isinstance(named["labels"], list)
    if not lists or not all(isinstance(name, str) for name in (named["model"], *named["paths"])):
        raise XViTError(f"{path}: damaged: its model and paths are not all texts")
    if not all(label is None or isinstance(label, str) for label in named["labels"]):
        raise XViTError(f"{path}: damaged: its labels are not all texts")
    named |= {"paths": tuple(named["paths"]), "labels": tuple(named["labels"])}
    named["clip"] = from_dict(ClipSpec, named["clip"], path)
    try:
        return Features(values=values, **named)
    except XViTError as error:
        raise XViTError(f"{path}: damaged: {error}") from None


def check_format(path: Path) -> None:
    """Raise `XViTError` unless the suffix is one of a known format whose library is installed."""
    if path.suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise XViTError(f"{path}: expected a name that ends in one of {known}.{did_you_mean(path.suffix, _FORMATS)}")
    if path.suffix == ".parquet":
        import_optional("pyarrow", extra="features")


def check_names(path: Path, shape: tuple[int, ...], about: Mapping[str, Any]) -> None:
    """Raise `XViTError` if the format of `path` cannot hold the paths and labels of `about`."""
    if path.suffix == ".safetensors" and len(_header(shape, about)) > _HEADER_LIMIT:
        raise XViTError(f"{path}: too many videos for this format's header ({shape[0]}): take .npy or .parquet")
    if path.suffix == ".parquet":
        for name in (*about["paths"], *about["labels"]):
            try:
                (name or "").encode()
            except UnicodeEncodeError:
                raise XViTError(f"{name}: a name that is no text, which .parquet cannot hold: take .npy") from None


def write(path: Path, raw: Path, shape: tuple[int, ...], about: Mapping[str, Any]) -> None:
    """Write a file of features, and what lies beside it.

    Args:
        path: where.
        raw: file of the values, float32, one row after the other.
        shape: of the values.
        about: format, level, model, clip, paths and labels, plain values.
    """
    _FORMATS[path.suffix][0](path, raw, shape, about)


def sidecars(path: Path) -> list[Path]:
    """What lies beside a file of features: NAME.json of a .npy, nothing of the other formats."""
    return [path.with_name(f"{path.name}.json")] if path.suffix == ".npy" else []


def _header(shape: tuple[int, ...], about: Mapping[str, Any]) -> bytes:
    """What comes before the values in a .safetensors."""
    tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * math.prod(shape)]}
    text = json.dumps({"__metadata__": {_KEY: json.dumps(about)}, _TENSOR: tensor}).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    return len(text).to_bytes(8, "little") + text


def _write_safetensors(path: Path, raw: Path, shape: tuple[int, ...], about: Mapping[str, Any]) -> None:
    with open(path, "wb") as file, open(raw, "rb") as values:
        file.write(_header(shape, about))  # by hand: the library would take all values into memory
        shutil.copyfileobj(values, file)


def _read_safetensors(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with safe_open(path, framework="np") as file:
        return file.get_tensor(_TENSOR), json.loads(file.metadata()[_KEY])


def _write_npy(path: Path, raw: Path, shape: tuple[int, ...], about: Mapping[str, Any]) -> None:
    sidecars(path)[0].write_text(json.dumps(about) + "\n", encoding="utf-8")
    with open(path, "wb") as file, open(raw, "rb") as values:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        shutil.copyfileobj(values, file)


def _read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    about = json.loads(sidecars(path)[0].read_text(encoding="utf-8"))
    # Of numpy's ways in, the one that takes .npy alone: no .npz, and never pickled objects.
    return np.lib.format.open_memmap(path, mode="r"), about


def _write_parquet(path: Path, raw: Path, shape: tuple[int, ...], about: Mapping[str, Any]) -> None:
    arrow, parquet = import_optional("pyarrow", extra="features"), import_optional("pyarrow.parquet", extra="features")
    width, rows = math.prod(shape[1:]), _rows(shape)
    told = {key: value for key, value in about.items() if key not in ("paths", "labels")} | {"shape": shape[1:]}
    columns = [("path", arrow.string()), ("label", arrow.string()), (_TENSOR, arrow.list_(arrow.float32()))]
    schema = arrow.schema(columns, metadata={_KEY: json.dumps(told)})
    with parquet.ParquetWriter(path, schema, use_dictionary=["label"]) as file, open(raw, "rb") as source:
        for first in range(0, shape[0], rows):
            names, labels = (about[key][first : first + rows] for key in ("paths", "labels"))
            values = np.fromfile(source, "<f4", len(names) * width)
            offsets = np.arange(0, values.size + 1, width, dtype=np.int32)
            lists = arrow.ListArray.from_arrays(offsets, values)  # (rows width) -> rows lists of width
            file.write_table(arrow.table([names, labels, lists], schema=schema))


def _read_parquet(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with import_optional("pyarrow.parquet", extra="features").ParquetFile(path) as file:
        about = json.loads(file.schema_arrow.metadata[_KEY.encode()])
        shape = (file.metadata.num_rows, *about.pop("shape"))
        values = np.empty((shape[0], math.prod(shape[1:])), np.float32)
        about |= {"paths": [], "labels": []}
        for batch in file.iter_batches(_rows(shape), columns=["path", "label", _TENSOR]):
            names, labels, lists = (batch.column(name) for name in ("path", "label", _TENSOR))
            first = len(about["paths"])
            if not (np.asarray(lists.value_lengths()) == values.shape[1]).all():
                raise ValueError(f"rows of other than {values.shape[1]} numbers")
            values[first : first + len(lists)] = lists.flatten().to_numpy().reshape(len(lists), -1)
            about["paths"] += names.to_pylist()
            about["labels"] += labels.to_pylist()
    if len(about["paths"]) != len(values):
        raise ValueError(f"{len(about['paths'])} of {len(values)} rows")
    return values.reshape(shape), about


def _rows(shape: tuple[int, ...]) -> int:
    """Rows of a row group."""
    return max(_CHUNK // math.prod(shape[1:]), 1)


_FORMATS = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".npy": (_write_npy, _read_npy),
    ".parquet": (_write_parquet, _read_parquet),
}
