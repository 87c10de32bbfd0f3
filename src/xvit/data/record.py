"""What a result is made of, recorded so that it is not resumed with other videos.

A video is recognised by its name and its size in bytes, a folder of frames by the number of its images. The contents
are not read: on a network disk that would take as long as an epoch. Times of modification are not used: they change
when a data set is copied. So a file that was replaced by another one of exactly the same size is not noticed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from xvit.config import ClassNames, as_task_dict
from xvit.data.annotations import DatasetSplits, Label, Sample, class_indices
from xvit.data.decode.frame_folder import is_image_file
from xvit.data.remote.download import remote_size
from xvit.data.shards import file_size
from xvit.utils.addresses import is_address
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.text import name_some
from xvit.utils.version import library_versions

Row = list[Any]  # [name, label, fps, size], plain values

_MAX_NAMED = 2  # of each kind in a message
_STAT_THREADS = 16  # a network disk answers many at once


def record_samples(samples: Sequence[Sample]) -> list[Row]:
    """A row for each sample, in their order. Names are unique: they include the segment, and a number if repeated."""
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        sizes = list(pool.map(video_size, [sample.path for sample in samples]))
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    for sample, size in zip(samples, sizes, strict=True):
        name = sample.id
        if sample.stop is not None:
            name += f" ({sample.start or 0:.10g} to {sample.stop:.10g} s)"
        elif sample.start:
            name += f" (from {sample.start:.10g} s)"
        seen[name] += 1
        rows.append([name if seen[name] == 1 else f"{name} [{seen[name]}]", sample.label, sample.fps, size])
    return _plain(rows)


def record_splits(data: DatasetSplits) -> dict[str, Any]:
    """The class names of a data set and the rows of its splits, as plain values."""
    splits = {name: record_samples(samples) for name, samples in data.by_name.items()}
    return {"class_names": _plain(data.class_names), **splits}


def video_size(path: str | Path) -> int | None:
    """Bytes of a file, number of images in a folder of frames; None if it cannot be found out.

    Raises:
        XViTError: an address that is not allowed, or wrong credentials, with which no video can be read.
    """
    try:
        if is_address(path):
            return remote_size(str(path))
        if os.path.isdir(path):
            return sum(map(is_image_file, os.listdir(path)))
        return file_size(path)
    except VideoError:
        return None
    except XViTError:
        raise
    except (OSError, ValueError):  # reading the video reports the error
        return None


def record_hash(record: Any) -> str:
    """Hash of plain values, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def compare_class_names(before: ClassNames, now: ClassNames) -> str:
    """How class names changed, such as "blue removed, zebra added"; empty if they did not."""
    parts = []
    old, new = as_task_dict(before), as_task_dict(now)
    for task in dict.fromkeys([*old, *new]):
        known, current = old.get(task, []), new.get(task, [])
        parts += _count([name for name in known if name not in set(current)], "removed", number=False)
        parts += _count([name for name in current if name not in set(known)], "added", number=False)
        if known != current and sorted(known) == sorted(current):
            parts.append("in another order")
    return ", ".join(parts)


def compare_rows(before: Sequence[Row], now: Sequence[Row], name_label: Callable[[Label | None, bool], Any]) -> str:
    """How videos changed, such as "2 removed (a.mp4, b.mp4), 1 of another size (c.mp4)"; empty if they did not.

    Args:
        before: rows as recorded.
        now: rows as they are.
        name_label: called with a label and whether it is one of `before`; returns the names of its classes.
    """
    old, new = {row[0]: row[1:] for row in before}, {row[0]: row[1:] for row in now}
    kept = [name for name in new if name in old]
    relabelled = []
    for name in kept:
        label, current = name_label(old[name][0], True), name_label(new[name][0], False)
        if label != current:
            relabelled.append(f"{name}: {label}, now {current}")
    parts = [
        *_count([name for name in old if name not in new], "removed"),
        *_count([name for name in new if name not in old], "added"),
        *_count(relabelled, "with another label"),
        *_count([name for name in kept if old[name][1] != new[name][1]], "with another frame rate"),
        *_count([name for name in kept if old[name][2] != new[name][2]], "of another size"),
    ]
    if not parts and list(old) != list(new):
        parts.append("in another order")
    return ", ".join(parts)


def compare_splits(before: Mapping[str, Any], now: Mapping[str, Any], splits: Iterable[str]) -> str:
    """How the class names and some splits of a data set changed, in one line; empty if they did not.

    Args:
        before: the record of `record_splits`.
        now: the record of the data set as it is.
        splits: any of train, val and test.
    """

    def name_label(label: Label | None, is_old: bool) -> Any:
        class_names = as_task_dict((before if is_old else now)["class_names"])
        indices = tuple(label) if isinstance(label, list) else label  # a tuple is a list in JSON
        names = [class_names[task][index] for task in class_names for index in class_indices(indices, task)]
        return " and ".join(names) or "none"

    parts = {"classes": compare_class_names(before["class_names"], now["class_names"])}
    for split in splits:
        kind = {"train": "training", "val": "validation"}.get(split, split)
        parts[f"{kind} videos"] = compare_rows(before[split], now[split], name_label)
    return "; ".join(f"{what}: {changes}" for what, changes in parts.items() if changes)


def record_versions(device: torch.device) -> dict[str, str]:
    """The libraries and the kind of device, with which the last digits of a result change."""
    return {**library_versions(), "device": device.type}


def compare_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which versions changed, such as "torch 2.9 (now 2.10)"; empty if none did."""
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} (now {now.get(name)})" for name in names)


def _count(names: Sequence[str], what: str, *, number: bool = True) -> list[str]:
    if not names:
        return []
    shown = name_some(names, _MAX_NAMED)
    return [f"{len(names)} {what} ({shown})" if number else f"{shown} {what}"]


def _plain(values: Any) -> Any:
    """Values as JSON gives them back: a tuple becomes a list."""
    return json.loads(json.dumps(values))
