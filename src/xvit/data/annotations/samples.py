"""Which videos there are and what they show: samples, class folders, files of class names.

`xvit.data.annotations.lists` reads lists of `path label` lines, `xvit.data.annotations.formats` published data sets.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict, unwrap_single_task
from xvit.data.annotations.finder import check_folder
from xvit.data.decode import VIDEO_EXTENSIONS
from xvit.data.decode.frame_folder import is_image_file
from xvit.utils.errors import XViTError, check_range

Label = int | tuple[int, ...] | dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One video, or a stretch of one, and its label.

    Args:
        path: the file, or the folder of its frames.
        label: index of the class; for several tasks {"verb": 3, "noun": 7}; for classes that do not exclude each other
            (3, 7), which may be empty; None where it is not known.
        id: its name in results and reports: the path relative to the data set's root.
        start: seconds from the beginning; None for the beginning.
        stop: seconds from the beginning; None for the end.
        fps: frames a second of a folder of frames; None for 30. A file says it itself.

    Raises:
        XViTError: a stretch that ends before it starts.
    """

    path: str
    label: Label | None
    id: str
    start: float | None = None
    stop: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        start = 0.0 if self.start is None else self.start
        if start < 0 or (self.stop is not None and self.stop <= start):
            raise XViTError(f"{self.id}: from {self.start} to {self.stop} s: expected 0 <= start < stop")


def class_indices(label: Label | None, task: str = SINGLE_TASK) -> tuple[int, ...]:
    """The indices of the classes in a label, of one task."""
    number = as_task_dict(label).get(task)
    return () if number is None else number if isinstance(number, tuple) else (number,)


def remap_label(label: Label | None, indices: Mapping[str, Sequence[int]]) -> Label | None:
    """A label with other class indices: of each task, the new index of each old one."""
    if label is None:
        return None
    if isinstance(label, tuple):
        return tuple(indices[SINGLE_TASK][number] for number in label)
    renamed: Label = unwrap_single_task({task: indices[task][number] for task, number in as_task_dict(label).items()})
    return renamed


class ClassFolders(NamedTuple):
    """What `read_class_folders` finds: samples to train on, to validate on, and the classes in the labels' order."""

    train: list[Sample]
    val: list[Sample]
    classes: list[str]


def read_class_folders(root: str | Path, *, val_fraction: float = 0.2, seed: int = 0) -> ClassFolders:
    """Read root/train/<class>/* and root/val/<class>/*, or split root/<class>/*.

    The split orders the videos of each class by a hash of their names and `seed`, so that other classes do not matter
    to it. A class of two videos or more has at least one on either side, unless
    `val_fraction` is 0; a single video is trained on.

    Args:
        root: the folder.
        val_fraction: share of each class to validate on, where root has no train and val of its own.
        seed: of the split.

    Returns:
        (train, val, classes), samples in the order of their ids, classes sorted.

    Raises:
        XViTError: no such folder, no videos, a class without videos, a single class, a class to validate on that is
            not trained on.
    """
    check_range("val_fraction", val_fraction, 0, 1)
    check_folder(root)
    root = Path(root)
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = _read_classes(root / "train"), _read_classes(root / "val")
        unknown = sorted(set(val) - set(train))
        if unknown:
            raise XViTError(f'{root / "val"}: class "{unknown[0]}" is not in {root / "train"}')
    elif (root / "train").is_dir() and any(path.is_dir() for path in (root / "train").iterdir()):
        raise XViTError(f"{root / 'train'}: holds class folders, but there is no {root / 'val'} beside it")
    else:
        train, val = {}, {}
        for name, videos in _read_classes(root).items():
            number = round(val_fraction * len(videos))
            if val_fraction > 0:
                number = min(max(number, 1), len(videos) - 1)
            drawn = sorted(videos, key=lambda video: _draw(seed, f"{name}/{video.name}"))
            train[name], val[name] = drawn[number:], drawn[:number]
    classes = sorted(train)
    if len(classes) == 1:
        raise XViTError(f'{root}: only one class, "{classes[0]}": expected a folder for each of two or more')
    labels = {name: label for label, name in enumerate(classes)}
    return ClassFolders(_samples(root, train, labels), _samples(root, val, labels), classes)


class ParsedAnnotations(NamedTuple):
    """What an annotation file holds: the samples whose video is there, the class names that their labels index, the
    videos that are not there (each once), and how many rows are of those.
    """

    samples: list[Sample]
    class_names: ClassNames
    missing: list[str]
    missing_rows: int


def read_text(path: str | Path) -> str:
    """An annotation file's text; bytes that are no UTF-8 stay as they are in file names.

    Raises:
        XViTError: no such file, not readable.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror})"
        raise XViTError(f"{path}: {reason}") from None


def read_class_names(path: str | Path) -> list[str]:
    """Class names from a file, in the order of their numbers.

    Args:
        path: text with a name a line; JSON: a list of names, or a mapping of names to numbers from 0 on (as
            Something-Something's labels file is); or CSV with the columns id and key (as EPIC-KITCHENS' are) or name.

    Raises:
        XViTError: no such file, no names, names twice, numbers that are not 0, 1, 2, ...
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            found = json.loads(text)
        elif path.suffix.lower() == ".csv" and "id" in text.partition("\n")[0].strip().split(","):
            found = {
                row.get("key") or row.get("name") or "": row.get("id") for row in csv.DictReader(io.StringIO(text))
            }
        else:
            found = [line.strip() for line in text.splitlines()]
    except (OSError, ValueError, csv.Error) as error:
        raise XViTError(f"{path}: not readable as a file of class names: {' '.join(str(error).split())}") from None
    if isinstance(found, dict):
        numbers = {name: int(value) if str(value).isdecimal() else -1 for name, value in found.items()}
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise XViTError(f"{path}: expected the classes to have the numbers 0 to {len(numbers) - 1}, each once")
        found = sorted(numbers, key=lambda name: numbers[name])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise XViTError(f"{path}: expected a list of class names, or a mapping of names to numbers")
    while found and not found[-1]:
        found.pop()  # empty lines at the end
    seen: dict[str, int] = {}
    for line, name in enumerate(found, start=1):
        if not name:
            raise XViTError(f"{path}: line {line} is empty: expected a class name")
        if name in seen:
            raise XViTError(f'{path}: class "{name}" in lines {seen[name]} and {line}')
        seen[name] = line
    if not found:
        raise XViTError(f"{path}: no class names in it")
    return found


def find_videos(paths: Iterable[str | Path]) -> list[str]:
    """Files as they are given, whether they exist or not, and all videos in the folders given, at any depth, sorted.

    A folder that holds pictures and no video counts as a video, of these frames. One without
    either stands for itself: whoever decodes it reports it with the other bad files.
    """
    found: list[str] = []
    for path in paths:
        videos: list[str] = []
        for folder, _, names in os.walk(path):
            here = [os.path.join(folder, name) for name in names if _is_video(Path(folder, name))]
            videos += here or [folder] * any(map(is_image_file, names))
        found += sorted(videos) or [os.fspath(path)]
    return found


def _read_classes(folder: Path) -> dict[str, list[Path]]:
    """The videos in each folder of `folder`, sorted."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = {
        name: sorted(path for path in (folder / name).iterdir() if _is_video(path) or _holds_frames(path))
        for name in names
    }
    if not any(classes.values()):
        raise XViTError(f"{folder}: no videos: expected {folder.name}/<class>/*.mp4 (or {_some_extensions()})")
    for name, videos in classes.items():
        if not videos:
            raise XViTError(f"{folder / name}: a class without videos: remove the folder, or put its videos in it")
    return classes


def _samples(root: Path, videos: dict[str, list[Path]], labels: dict[str, int]) -> list[Sample]:
    samples = [
        Sample(path=str(path), label=labels[name], id=path.relative_to(root).as_posix())
        for name, paths in videos.items()
        for path in paths
    ]
    return sorted(samples, key=lambda sample: sample.id)


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).hexdigest()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _holds_frames(folder: Path) -> bool:
    if folder.name.startswith(".") or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(is_image_file(entry.name) for entry in entries)


def _some_extensions() -> str:
    return ", ".join(sorted(VIDEO_EXTENSIONS - {".mp4"}))
