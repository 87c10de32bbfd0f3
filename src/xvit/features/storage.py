"""Feature files: .safetensors, .npy and .parquet. They are written from raw values without loading these into memory.

N videos, T frames, P tokens per frame (prefix tokens first), D channels.
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

from xvit.config import ClipSpec, stored_clip_spec
from xvit.utils.errors import XViTError, check_choice, did_you_mean, import_optional, one_line
from xvit.utils.files import parse_json

Level = Literal["clip", "frames", "tokens"]
LEVELS: tuple[str, ...] = ("clip", "frames", "tokens")
FORMAT = 1
MAX_HEADER_BYTES = 100_000_000  # of a .safetensors: its readers refuse a longer header
ROW_GROUP_VALUES = 1 << 24  # of a .parquet
_METADATA_KEY, _TENSOR = "xvit", "features"


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFeatures:
    """Features of N videos.

    Args:
        values: (N, D), (N, T, D) or (N, T, P, D) float32, depending on the level.
        labels: class name of each video; None where it is unknown.
        level: clip, frames or tokens.
        model_hash: hash of the model's weights and settings; features of equal hashes are comparable.
        clip_spec: how the videos were turned into model inputs.

    Raises:
        XViTError: values, paths and labels do not match.
    """

    values: np.ndarray
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    level: Level
    model_hash: str
    clip_spec: ClipSpec

    def __post_init__(self) -> None:
        check_choice("level", self.level, LEVELS)
        ndim = LEVELS.index(self.level) + 2
        if self.values.dtype != np.float32 or self.values.ndim != ndim:
            given = f"{self.values.dtype} of shape {self.values.shape}"
            raise XViTError(f"values: {given}: expected float32 with {ndim} dimensions for level={self.level!r}")
        if not len(self.values) == len(self.paths) == len(self.labels) > 0:
            counts = f"{len(self.values)} rows, {len(self.paths)} paths, {len(self.labels)} labels"
            raise XViTError(f"{counts}: expected the same number of each, at least 1")


def read_features(path: str | Path) -> VideoFeatures:
    """Read a feature file. The values of a .npy stay on disk until they are used. No code in a file is executed.

    Raises:
        XViTError: the file does not exist, is damaged, has an unknown format or a newer version, or was not written by
            xvit; a library is missing.
    """
    path = Path(path)
    check_format(path)
    for file in (path, *sidecars(path)):
        if not file.is_file():
            raise XViTError(f"{file}: no such file")
    try:
        values, metadata = _FORMATS[path.suffix][1](path)
        newer = metadata["format"] > FORMAT
        fields = {key: metadata[key] for key in ("level", "model_hash", "clip_spec", "paths", "labels")}
    except Exception as error:  # a damaged file can fail anywhere in three libraries
        raise XViTError(f"{path}: damaged, or not a feature file of xvit ({one_line(error, name=True)})") from None
    if newer:
        raise XViTError(
            f"{path}: format {metadata['format']}, but this version reads up to {FORMAT}: pip install -U xvit"
        )
    lists = isinstance(fields["paths"], list) and isinstance(fields["labels"], list)
    if not lists or not all(isinstance(name, str) for name in (fields["model_hash"], *fields["paths"])):
        raise XViTError(f"{path}: damaged: model_hash and paths are not all strings")
    if not all(label is None or isinstance(label, str) for label in fields["labels"]):
        raise XViTError(f"{path}: damaged: labels are not all strings")
    fields |= {"paths": tuple(fields["paths"]), "labels": tuple(fields["labels"])}
    fields["clip_spec"] = stored_clip_spec(fields["clip_spec"], path)
    try:
        return VideoFeatures(values=values, **fields)
    except XViTError as error:
        raise XViTError(f"{path}: damaged: {error}") from None


def check_format(path: Path) -> None:
    """Raise `XViTError` unless the suffix names a known format whose library is installed."""
    if path.suffix not in _FORMATS:
        suffixes = ", ".join(_FORMATS)
        raise XViTError(f"{path}: expected a name that ends in one of {suffixes}.{did_you_mean(path.suffix, _FORMATS)}")
    if path.suffix == ".parquet":
        import_optional("pyarrow", extra="features")


def check_names(path: Path, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    """Raise `XViTError` if the format of `path` cannot hold the paths and labels in `metadata`."""
    if path.suffix == ".safetensors" and len(_header(shape, metadata)) > MAX_HEADER_BYTES:
        raise XViTError(f"{path}: too many videos for this format's header ({shape[0]}): use .npy or .parquet")
    if path.suffix == ".parquet":
        for name in (*metadata["paths"], *metadata["labels"]):
            try:
                (name or "").encode()
            except UnicodeEncodeError:
                raise XViTError(f"{name}: not valid Unicode, which .parquet requires: use .npy") from None


def write_features(path: Path, raw: Path, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    """Write a feature file and its sidecars from a raw file of values of this shape: float32, row after row.

    `metadata` holds format, level, model_hash, clip_spec, paths and labels, as plain values.
    """
    _FORMATS[path.suffix][0](path, raw, shape, metadata)


def sidecars(path: Path) -> list[Path]:
    """Additional files of a feature file: NAME.json of a .npy, none of the other formats."""
    return [path.with_name(f"{path.name}.json")] if path.suffix == ".npy" else []


def _header(shape: tuple[int, ...], metadata: Mapping[str, Any]) -> bytes:
    """The bytes before the values in a .safetensors."""
    tensor = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * math.prod(shape)]}
    text = json.dumps({"__metadata__": {_METADATA_KEY: json.dumps(metadata)}, _TENSOR: tensor}).encode()
    text += b" " * (-len(text) % 8)  # aligns the values
    return len(text).to_bytes(8, "little") + text


def _write_safetensors(path: Path, raw: Path, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    with open(path, "wb") as file, open(raw, "rb") as values:
        file.write(_header(shape, metadata))  # not by the library, which needs all values in memory
        shutil.copyfileobj(values, file)


def _read_safetensors(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with safe_open(path, framework="np") as file:
        return file.get_tensor(_TENSOR), parse_json(file.metadata()[_METADATA_KEY])


def _write_npy(path: Path, raw: Path, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    sidecars(path)[0].write_text(json.dumps(metadata) + "\n", encoding="utf-8")
    with open(path, "wb") as file, open(raw, "rb") as values:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        shutil.copyfileobj(values, file)


def _read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    metadata = parse_json(sidecars(path)[0].read_text(encoding="utf-8"))
    # unlike np.load, this reads .npy only: no .npz, no pickled objects
    return np.lib.format.open_memmap(path, mode="r"), metadata


def _write_parquet(path: Path, raw: Path, shape: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
    arrow, parquet = import_optional("pyarrow", extra="features"), import_optional("pyarrow.parquet", extra="features")
    width, rows = math.prod(shape[1:]), _rows_per_group(shape)
    header = {key: value for key, value in metadata.items() if key not in ("paths", "labels")} | {"shape": shape[1:]}
    columns = [("path", arrow.string()), ("label", arrow.string()), (_TENSOR, arrow.list_(arrow.float32()))]
    schema = arrow.schema(columns, metadata={_METADATA_KEY: json.dumps(header)})
    with parquet.ParquetWriter(path, schema, use_dictionary=["label"]) as file, open(raw, "rb") as source:
        for first in range(0, shape[0], rows):
            names, labels = (metadata[key][first : first + rows] for key in ("paths", "labels"))
            values = np.fromfile(source, "<f4", len(names) * width)
            offsets = np.arange(0, values.size + 1, width, dtype=np.int32)
            lists = arrow.ListArray.from_arrays(offsets, values)  # (rows width) -> rows lists of width
            file.write_table(arrow.table([names, labels, lists], schema=schema))


def _read_parquet(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with import_optional("pyarrow.parquet", extra="features").ParquetFile(path) as file:
        metadata = parse_json(file.schema_arrow.metadata[_METADATA_KEY.encode()])
        shape = (file.metadata.num_rows, *metadata.pop("shape"))
        values = np.empty((shape[0], math.prod(shape[1:])), np.float32)
        metadata |= {"paths": [], "labels": []}
        for batch in file.iter_batches(_rows_per_group(shape), columns=["path", "label", _TENSOR]):
            names, labels, lists = (batch.column(name) for name in ("path", "label", _TENSOR))
            first = len(metadata["paths"])
            if not (np.asarray(lists.value_lengths()) == values.shape[1]).all():
                raise ValueError(f"expected rows of {values.shape[1]} values")
            values[first : first + len(lists)] = lists.flatten().to_numpy().reshape(len(lists), -1)
            metadata["paths"] += names.to_pylist()
            metadata["labels"] += labels.to_pylist()
    if len(metadata["paths"]) != len(values):
        raise ValueError(f"only {len(metadata['paths'])} of {len(values)} rows")
    return values.reshape(shape), metadata


def _rows_per_group(shape: tuple[int, ...]) -> int:
    """Number of rows in a row group."""
    return max(ROW_GROUP_VALUES // math.prod(shape[1:]), 1)


_FORMATS = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".npy": (_write_npy, _read_npy),
    ".parquet": (_write_parquet, _read_parquet),
}
