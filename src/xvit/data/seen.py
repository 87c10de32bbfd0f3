"""Recognising the videos that a model was trained or chosen with, wherever they lie and whatever they are called."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from xvit.data.annotations import DatasetSplits, Sample
from xvit.data.remote.download import read_beginning
from xvit.data.remote.errors import CredentialsError
from xvit.data.shards import file_size, open_file
from xvit.utils.addresses import is_address

_MAX_FINGERPRINTS = 256  # of a larger split a sample is kept: enough to notice a video in fifty
_HASHED_BYTES = 65_536  # the beginning of a file
_THREADS = 16  # a network disk or a store answers many at once


def fingerprint_splits(data: DatasetSplits) -> dict[str, str]:
    """Fingerprints of the training and validation videos, for a checkpoint's provenance.

    A split of more than 256 videos is represented by some of them, evenly spaced.
    """
    return {
        name: " ".join(_fingerprints(samples[:: -(-len(samples) // _MAX_FINGERPRINTS) or 1]))
        for name, samples in (("train", data.train), ("val", data.val))
    }


def count_seen(provenance: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, int]:
    """How many of these videos the model with this provenance was trained on (train) or chosen by (val).

    Of a large data set the numbers are estimates, since only a sample of it is recorded. Splits without a match are
    left out. The validation videos have chosen the best checkpoint of a run, not its last one.
    """
    numbers = {}
    for name in ("train", "val") if provenance.get("chosen_by") else ("train",):
        if number := len(find_seen(provenance, samples, name)):
            known, size = _recorded(provenance, name)
            numbers[name] = min(number * size // len(known), len(samples))
    return numbers


def find_seen(provenance: Mapping[str, Any], samples: Sequence[Sample], split: Literal["train", "val"]) -> list[Sample]:
    """Those samples that are recorded as training or validation videos of the model with this provenance."""
    known, _ = _recorded(provenance, split)
    if not known:
        return []
    fingerprints = _fingerprints(samples)
    return [sample for sample, fingerprint in zip(samples, fingerprints, strict=True) if fingerprint in known]


def _recorded(provenance: Mapping[str, Any], split: str) -> tuple[list[str], int]:
    """The fingerprints of a split and its number of videos; none if the provenance does not hold them."""
    data = provenance.get("data")
    fingerprints = data.get("fingerprints") if isinstance(data, Mapping) else None
    known = fingerprints.get(split) if isinstance(fingerprints, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(known, str) or type(data.get(split)) is not int:
        return [], 0
    return known.split(), data[split]


def _fingerprints(samples: Sequence[Sample]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_fingerprint, samples))


def _fingerprint(sample: Sample) -> str:
    """Hash of the size and the beginning of the file (of a folder of frames: of its names), and of the segment."""
    path = Path(sample.path)
    try:
        if is_address(sample.path):
            size, beginning = read_beginning(sample.path, _HASHED_BYTES)
            content = f"{size} ".encode() + beginning
        elif path.is_dir():
            content = "\0".join(sorted(entry.name for entry in path.iterdir())).encode(errors="surrogateescape")
            content += _beginning(min(file for file in path.iterdir() if file.is_file()))
        else:
            content = f"{file_size(path)} ".encode() + _beginning(path)
    except CredentialsError:  # nothing else can be read, either
        raise
    except (OSError, ValueError):  # gone, or an empty folder: reading the video will tell
        content = str(path).encode(errors="surrogateescape")
    segment = f"{sample.start} {sample.stop} ".encode()
    return hashlib.sha256(segment + content).hexdigest()[:12]


def _beginning(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(_HASHED_BYTES)
