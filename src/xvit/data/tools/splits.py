"""Compare the splits of a data set: classes that one of them lacks, and videos that are in two of them."""

import hashlib
import os
from collections import Counter, defaultdict

from xvit.data.annotations import DatasetSplits, Sample
from xvit.data.shards import file_size, open_file, shard_of
from xvit.utils.addresses import is_address

_NAMES = {"train": "training", "val": "validation", "test": "test"}


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


def find_copies(splits: DatasetSplits) -> list[tuple[str, str]]:
    """Pairs of ids of samples in different splits whose files have the same contents.

    Only files of the same size are read. Videos at addresses are not compared.
    """
    by_size: dict[int, list[tuple[str, Sample]]] = defaultdict(list)
    for split, samples in splits.by_name.items():
        for sample in samples:
            if sample.start is None and (os.path.isfile(sample.path) or shard_of(sample.path)):
                by_size[file_size(sample.path)].append((split, sample))
    copies = []
    for group in by_size.values():
        if len({split for split, _ in group}) > 1:
            first_of: dict[str, tuple[str, Sample]] = {}
            for split, sample in group:
                digest = _digest(sample.path)
                first_split, first = first_of.setdefault(digest, (split, sample))
                if first_split != split:
                    copies.append((first.id, sample.id))
    return copies


def _digest(path: str) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
