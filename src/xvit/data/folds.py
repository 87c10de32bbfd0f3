"""Folds for cross-validation: parts of a data set, each of which is held out once."""

import hashlib
import os
from collections.abc import Sequence

from xvit.data.annotations import Sample
from xvit.utils.addresses import is_address
from xvit.utils.errors import XViTError, check_range


def split_folds(samples: Sequence[Sample], folds: int, *, seed: int = 0) -> list[list[int]]:
    """Divide samples into folds of nearly equal size, with nearly the same share of each class.

    Segments of one video, and several names of one file, stay in one fold. The videos of each class are ordered by a
    hash of their names and `seed`, and dealt out in turn: the first video of a class goes to the fold after that of the
    last video of the class before.

    Args:
        samples: with labels.
        folds: their number.
        seed: of the order.

    Returns:
        The indices of the samples in each fold, ascending; each index is in one of them.

    Raises:
        XViTError: fewer videos than folds; a class with a single video, which could not be learnt while it is held out.
    """
    check_range("folds", folds, 2)
    videos: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        path = sample.path if is_address(sample.path) else os.path.realpath(sample.path)
        videos.setdefault(path, []).append(index)
    if len(videos) < folds:
        raise XViTError(f"folds={folds}: expected at most one per video, {len(videos)}")
    classes: dict[str, list[list[int]]] = {}
    for members in videos.values():
        classes.setdefault(repr(samples[members[0]].label), []).append(members)
    parts: list[list[int]] = [[] for _ in range(folds)]
    dealt = 0
    for label in sorted(classes):
        if len(classes[label]) == 1 and isinstance(samples[classes[label][0][0]].label, int):
            id = samples[classes[label][0][0]].id
            raise XViTError(
                f"{id}: the only video of its class, which could not be learnt while it is held out: add some"
            )
        for members in sorted(classes[label], key=lambda members: _hash(seed, samples[members[0]].id)):
            parts[dealt % folds] += members
            dealt += 1
    return [sorted(part) for part in parts]


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).hexdigest()
