"""Compare the splits of a data set: classes that one of them lacks, videos that are in two of them, and copies."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from xvit.data.annotations import DatasetSplits, Sample
from xvit.data.shards import file_size, open_file, shard_of
from xvit.utils.addresses import is_address

_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two samples whose files have the same contents.

    Args:
        first: the id of one.
        second: the id of the other.
        where: two splits, two classes or one class.
    """

    first: str
    second: str
    where: str


def find_class_problems(splits: DatasetSplits) -> list[tuple[str, str]]:
    """Classes that cannot be split or trained, as pairs of a class or folder and a reason.

    The splits are compared if each video has one class; in multi-label data, a split may well lack a class.
    """
    problems = list(splits.problems)
    counts = {
        split: Counter(sample.label for sample in samples if isinstance(sample.label, int))
        for split, samples in splits.by_name.items()
    }
    if not counts["train"]:
        return problems
    for index, name in enumerate(splits.class_names):
        with_class = [split for split in counts if counts[split][index]]
        if with_class == ["train"] and counts["train"][index] == 1 and counts["val"]:
            problems.append((f'class "{name}"', "only one video: it cannot be split, and none is left for validation"))
        elif with_class and "train" not in with_class:
            which = " and ".join(_NAMES[split] for split in with_class)
            problems.append((f'class "{name}"', f"no training videos, only {which} videos"))
    return problems


def find_overlaps(splits: DatasetSplits) -> dict[tuple[str, str], str]:
    """Samples whose video (or segment of a video) is in an earlier split too, under any name.

    Returns:
        Split and id of the sample that is also there, by split and id: such as "train: a/1.mp4".
    """
    seen: dict[tuple[object, ...], tuple[str, str]] = {}
    overlaps = {}
    for split, samples in splits.by_name.items():
        for sample in samples:
            path = sample.path if is_address(sample.path) else os.path.realpath(sample.path)
            key = (path, sample.start, sample.stop)
            first_split, id = seen.setdefault(key, (split, sample.id))
            if first_split != split:
                overlaps[split, sample.id] = f"{_NAMES[first_split]}: {id}"
    return overlaps


def find_copies(splits: DatasetSplits) -> list[Copy]:
    """Samples whose files have the same contents as that of an earlier sample.

    Of files of the same size the beginnings are compared, and only if these are equal everything. Videos at addresses
    are not compared.
    """
    by_path: dict[str, tuple[str, Sample]] = {}
    for split, samples in splits.by_name.items():
        for sample in samples:
            if sample.start is None and (os.path.isfile(sample.path) or shard_of(sample.path)):
                by_path.setdefault(sample.path, (split, sample))
    groups = [list(by_path)]
    for contents in (file_size, partial(_digest, num_bytes=2**16), _digest):
        groups = [equal for group in groups for equal in _group_by(contents, group) if len(equal) > 1]
    copies = []
    for first_path, *paths in groups:
        first_split, first = by_path[first_path]
        for split, sample in (by_path[path] for path in paths):
            where = "one class" if sample.label == first.label else "two classes"
            if split != first_split:
                where = "two splits"
            copies.append(Copy(first=first.id, second=sample.id, where=where))
    return copies


def _group_by(key: Callable[[str], object], paths: Iterable[str]) -> Iterable[list[str]]:
    groups: dict[object, list[str]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups.values()


def _digest(path: str, num_bytes: int = -1) -> bytes:
    with open_file(path) as file:
        if num_bytes >= 0:
            return hashlib.sha256(file.read(num_bytes)).digest()
        return hashlib.file_digest(file, "sha256").digest()
