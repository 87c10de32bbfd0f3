"""Data sets in shards (`xvit.data.shards`): which shards a split has, and what their annotations say.

    root/train-000000.tar, ...    the training shards, or those in root/train; val and test alike
    root/labels.json              class names, in the order of the class indices; for several tasks a mapping of lists

KEY.json, as `xvit data pack` writes it, holds the label by its name. A video may have several segments:

    {"id": "blue/1.mp4", "label": "blue"}
    {"segments": [{"id": "P01_1", "label": {"verb": "open", "noun": "door"}, "start": 3.5, "stop": 7.0}, ...]}

Shards of others may have class indices, labels under another usual name such as "class", a label alone, or KEY.cls.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvit.config import SINGLE_TASK, ClassNames, DataConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations.class_folders import SPLITS
from xvit.data.annotations.class_names import read_class_names
from xvit.data.annotations.lists import LABEL_COLUMNS, MAX_CLASSES
from xvit.data.annotations.samples import DatasetSplits, Label, Sample, class_index
from xvit.data.shards import Member, find_member, is_shard, read_shard
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import check_folder, read_json

LABELS_FILE = "labels.json"
_READING_THREADS = 16  # a network disk answers many at once
_RANGE = re.compile(r"\{([0-9]{1,9})\.\.([0-9]{1,9})\}")
_MAX_SHARDS = 1_000_000

Names = list[int | str]  # class indices or class names


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A sample whose label is not resolved yet: class indices or names by task; None if unknown."""

    path: str
    id: str
    label: dict[str, Names] | None
    start: float | None
    stop: float | None


def read_webdataset(config: DataConfig, *, strict: bool = True) -> DatasetSplits:
    """Read the annotations in the shards of a data set.

    The class names are those of `label_files`, else of root/labels.json, else those that occur in the training shards,
    sorted, else those in the validation shards. The samples are in the order of the shards.

    Args:
        config: the data settings. `train`, `val` and `test` name shards: a file, a folder, or a pattern such as
            train-{000000..000146}.tar or train-*.tar, relative to `root`.
        strict: raise an error if validation shards have a class that the training shards lack.

    Raises:
        XViTError: no shards; a shard that cannot be read (with its name); a member without a label or with one that is
            not understood (with the names of shard and member).
    """
    rows = {split: _read_rows(shards, config) for split, shards in _find_shards(config).items()}
    for row in rows["train"]:
        if row.label is None:
            raise VideoError(row.path, 'no label: expected "label" in KEY.json, or KEY.cls, for each training video')
    class_names = _read_class_names(config) or _collect_class_names(rows, strict)
    indices = {task: {name: i for i, name in enumerate(names)} for task, names in as_task_dict(class_names).items()}
    splits = {
        split: [
            Sample(
                path=row.path,
                label=_resolve(row, indices, config.multi_label),
                id=row.id,
                start=row.start,
                stop=row.stop,
            )
            for row in rows[split]
        ]
        for split in SPLITS
    }
    return DatasetSplits(train=splits["train"], val=splits["val"], test=splits["test"], class_names=class_names)


def name_class(video: str) -> str | None:
    """The class of a video in a shard, by its annotation; None if it has none, or several."""
    member = find_member(video)
    label = None if member is None else _raw_label(member.annotation, member)
    return str(label) if isinstance(label, str | int) else None


def _find_shards(config: DataConfig) -> dict[str, list[str]]:
    """The paths of the shards of each split."""
    root = config.root
    check_folder(root)
    given = {split: getattr(config, split) for split in SPLITS}
    if any(given.values()):
        shards = {split: _expand(root, split, pattern) if pattern else () for split, pattern in given.items()}
        return {split: list(dict.fromkeys(paths)) for split, paths in shards.items()}
    found = {split: _glob(root, f"{split}*.tar", f"{split}*/**/*.tar") for split in SPLITS}
    if not any(found.values()):
        if compressed := _glob(root, "**/*.tar.*", "**/*.tgz"):
            raise XViTError(f"{compressed[0]}: compressed: videos cannot be read in place: decompress the shards first")
        expected = "expected train-*.tar and val-*.tar, or folders train and val; or set data.train and data.val"
        raise XViTError(f"{root}: no shards of these names: {expected}")
    return found


def _expand(root: str, split: str, pattern: str) -> Iterator[str]:
    for name in dict.fromkeys(_expand_ranges(pattern)):
        path = os.path.join(root, name)
        found = [path] if os.path.isfile(path) else _glob(root, f"{name}/**/*.tar" if os.path.isdir(path) else name)
        found = list(filter(is_shard, found))  # a pattern may match the index beside it, too
        if not found:
            raise XViTError(f"data.{split}={pattern!r}: no shard {name} (.tar) in {root}")
        yield from found


def _expand_ranges(pattern: str) -> Iterator[str]:
    """The names that a pattern with a range such as {000..146} stands for."""
    match = _RANGE.search(pattern)
    if not match:
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MAX_SHARDS:
        raise XViTError(f"{pattern!r}: {match[0]}: expected a range of numbers that ascends, such as {{000..146}}")
    for number in range(first, last + 1):
        name = f"{pattern[: match.start()]}{number:0{len(match[1])}d}{pattern[match.end() :]}"
        yield from _expand_ranges(name)


def _glob(root: str, *patterns: str) -> list[str]:
    found = {name for pattern in patterns for name in glob.glob(pattern, root_dir=root, recursive=True)}
    return [os.path.join(root, name) for name in sorted(found)]


def _read_rows(shards: Sequence[str], config: DataConfig) -> list[_Row]:
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        contents = list(pool.map(read_shard, shards))
    rows: list[_Row] = []
    for shard, members in zip(shards, contents, strict=True):
        name = Path(os.path.relpath(shard, config.root)).as_posix()
        for member in members.values():
            rows += _to_rows(member, f"{name}/{member.name}", config.multi_label)
    return rows


def _to_rows(member: Member, name: str, multi_label: bool) -> Iterator[_Row]:
    """The samples of a video: one, or one for each of its segments."""
    segments = member.annotation.get("segments") if isinstance(member.annotation, dict) else None
    if segments is not None and not (isinstance(segments, list) and all(isinstance(row, dict) for row in segments)):
        raise VideoError(member.path, "segments: expected a list of mappings with label, start and stop")
    for values in [member.annotation] if segments is None else segments:
        fields = values if isinstance(values, dict) else {}
        times = {key: fields.get(key) for key in ("start", "stop")} if segments else {}
        for key, value in times.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise VideoError(member.path, f"{key} {_shorten(value)}: expected seconds")
        id = fields.get("id")
        yield _Row(
            path=member.path,
            id=id if isinstance(id, str) and id else name,
            label=_parse_label(member.path, _raw_label(values, member), multi_label),
            start=times.get("start"),
            stop=times.get("stop"),
        )


def _raw_label(annotation: Any, member: Member) -> Any:
    """What an annotation says, as it is written; else what KEY.cls says; None if neither says anything."""
    if not isinstance(annotation, dict):
        return member.label if annotation is None else annotation
    key = next((key for key in LABEL_COLUMNS if annotation.get(key) is not None), None)
    return member.label if key is None else annotation[key]


def _parse_label(path: str, raw: Any, multi_label: bool) -> dict[str, Names] | None:
    if raw is None:
        return None
    if isinstance(raw, list) and not multi_label:
        raise VideoError(path, f"label {_shorten(raw)}: several labels: set data.multi_label=true")
    if isinstance(raw, dict) and multi_label:
        raise VideoError(path, f"label {_shorten(raw)}: several tasks: data.multi_label=true does not apply")
    if isinstance(raw, dict):
        names = {task: [value] for task, value in raw.items()}
    else:
        names = {SINGLE_TASK: raw if isinstance(raw, list) else [raw]}
    for value in [value for values in names.values() for value in values] if names else [raw]:
        is_index = type(value) is int and 0 <= value < MAX_CLASSES
        if not is_index and not (isinstance(value, str) and value):
            raise VideoError(path, f"label {_shorten(raw)}: expected class names, or class indices from 0")
    return names


def _resolve(row: _Row, indices: dict[str, dict[str, int]], multi_label: bool) -> Label | None:
    """The label of a sample as class indices."""
    if row.label is None:
        return None
    if row.label.keys() != indices.keys():
        tasks = " and ".join(indices)
        raise VideoError(row.path, f"labels for {' and '.join(row.label)}: expected {tasks}, as for the other videos")
    resolved: dict[str, list[int]] = {}
    for task, names in row.label.items():
        size = len(indices[task])
        for name in names:
            if isinstance(name, int) and name >= size:
                raise VideoError(row.path, f"label {name}: expected a class index from 0 to {size - 1}")
        resolved[task] = [
            name if isinstance(name, int) else class_index(row.path, "label", name, indices[task]) for name in names
        ]
    if multi_label:
        return tuple(sorted(set(resolved[SINGLE_TASK])))
    label: Label = unwrap_single_task({task: values[0] for task, values in resolved.items()})
    return label


def _read_class_names(config: DataConfig) -> ClassNames | None:
    if len(config.label_files) > 1:
        raise XViTError(f"data.label_files={list(config.label_files)}: expected one file for data.format='webdataset'")
    path = Path(config.label_files[0] if config.label_files else os.path.join(config.root, LABELS_FILE))
    if not config.label_files and not path.exists():
        return None
    values = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(values, dict) or not any(isinstance(names, list) for names in values.values()):
        return read_class_names(path)
    for task, names in values.items():
        texts = {name for name in names if isinstance(name, str) and name} if isinstance(names, list) else set()
        if not texts or len(texts) < len(names):
            raise XViTError(f"{path}: {task}: expected a list of class names, all different")
    return values


def _collect_class_names(rows: dict[str, list[_Row]], strict: bool) -> ClassNames:
    """The class names that occur, sorted; or the numbers of the classes, if labels are class indices."""
    labelled = [[row for row in rows[split] if row.label is not None] for split in SPLITS]
    chosen = next(filter(None, labelled), []) if strict else [row for part in labelled for row in part]
    class_names: dict[str, list[str]] = {}
    for task in (chosen[0].label or ()) if chosen else ():  # of the others, `_resolve` checks it
        labels = [(row.path, name) for row in chosen for name in (row.label or {}).get(task, ())]
        class_names[task] = _names_of_task(labels)
    result: ClassNames = unwrap_single_task(class_names) if class_names else []
    return result


def _names_of_task(labels: Iterable[tuple[str, int | str]]) -> list[str]:
    labels = list(labels)
    numbers = [name for _, name in labels if isinstance(name, int)]
    if not numbers:
        return sorted({str(name) for _, name in labels})
    for path, name in labels:
        if isinstance(name, str):
            advice = "or give the names of all classes as data.label_files"
            raise VideoError(path, f'label "{name}": expected a class index, as for other videos; {advice}')
    return [str(index) for index in range(max(numbers) + 1)]


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
