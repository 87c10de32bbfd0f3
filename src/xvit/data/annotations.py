"""Which videos there are and what they show: class folders, lists of `path label` lines, files of class names.

Each reader gives `Sample`s and class names. Those of published data sets are in `xvit.data.formats`.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xvit.config import Labels
from xvit.data.finder import VideoFinder, check_folder, has_extension, rate_of
from xvit.data.pictures import is_picture
from xvit.data.video import VIDEO_EXTENSIONS
from xvit.errors import XViTError, check_range, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One video, or a stretch of one, and its label.

    Args:
        path: the file, or the folder of its frames.
        label: index of the class; for several tasks {"verb": 3, "noun": 7}; None where it is not known.
        id: its name in results and reports: the path relative to the data set's root.
        start: seconds from the beginning; None for the beginning.
        stop: seconds from the beginning; None for the end.
        fps: frames a second of a folder of frames; None for 30. A file says it itself.

    Raises:
        XViTError: a stretch that ends before it starts.
    """

    path: str
    label: int | dict[str, int] | None
    id: str
    start: float | None = None
    stop: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        start = 0.0 if self.start is None else self.start
        if start < 0 or (self.stop is not None and self.stop <= start):
            raise XViTError(f"{self.id}: from {self.start} to {self.stop} s: expected 0 <= start < stop")


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


class Listing(NamedTuple):
    """What an annotation file holds: the samples whose video is there, the class names that their labels index, the
    videos that are not there (each once), and how many rows are of those.
    """

    samples: list[Sample]
    labels: Labels
    missing: list[str]
    missing_rows: int


def read_list(
    path: str | Path, videos: VideoFinder, *, labels: list[str] | None = None, fps: float | None = None
) -> Listing:
    """Read lines of `path label`, as PySlowFast's, MMAction2's and VideoMAE's lists are.

    What separates the two is a tab, a comma or a space, the last one of the line, and the same in all lines. Either may
    stand in double quotes. A first line that names the columns is left out. Labels are numbers from 0 on, or names.
    Between a folder of frames and its label their number may stand.

    Args:
        path: the list.
        videos: where the paths lead.
        labels: class names; without, those of the list, sorted, or its numbers.
        fps: frames a second of folders of frames.

    Raises:
        XViTError: no such file, no lines, a line that is none, a label that is no class.
    """
    lines = {
        number: line
        for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1)
        if line.strip()
    }
    known = set(labels or ())
    separator = max("\t, ", key=lambda separator: sum(_fit(line, separator, known) for line in lines.values()))
    rows = {number: _split(line, separator) for number, line in lines.items()}
    first = next(iter(rows), 0)
    header = rows[first] if rows else None
    if header and header[1].lower() in _HEADERS and not has_extension(header[0]) and header[1] not in known:
        del rows[first]
    if not rows:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and a label")
    found: dict[int, tuple[str, str]] = {}
    for number, row in rows.items():
        if row is None:
            raise XViTError(
                f"{path} line {number}: {lines[number]!r}: expected a path and a label, {_NAMES[separator]}"
            )
        found[number] = row
    numbers, names = _label_numbers(path, {number: label for number, (_, label) in found.items()}, labels)
    samples, missing = [], []
    for number, (name, _) in found.items():
        place = videos.at(name)
        if place is None and (counted := re.fullmatch(rf"(.+?)\s*{separator}\s*[0-9]+", name)):
            place = videos.at(counted[1])
        if place is None:
            missing.append(name)
        else:
            samples.append(Sample(path=place, label=numbers[number], id=name, fps=rate_of(place, fps)))
    return Listing(samples, names, list(dict.fromkeys(missing)), len(missing))


def write_list(path: str | Path, samples: Sequence[Sample], root: str | Path) -> None:
    """Write what `read_list` reads: paths relative to the root where they lie in it, a tab, the label's number.

    Args:
        path: the file.
        samples: whole videos with one label each.
        root: folder of the videos.

    Raises:
        XViTError: a stretch of a video, no label or one of several tasks, a line break in a name.
    """
    lines = []
    for sample in samples:
        if not isinstance(sample.label, int) or (sample.start, sample.stop) != (None, None):
            raise XViTError(f"{sample.id}: a list holds whole videos with one label each")
        inside = os.path.relpath(sample.path, root)
        name = os.path.abspath(sample.path) if inside.startswith("..") else Path(inside).as_posix()
        if "\n" in name:
            raise XViTError(f"{name!r}: a list cannot hold a line break in a name")
        if name != name.strip() or name.startswith('"'):
            name = '"{}"'.format(name.replace('"', '""'))
        lines.append(f"{name}\t{sample.label}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


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


def read_label_names(path: str | Path) -> list[str]:
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
            videos += here or [folder] * any(map(is_picture, names))
        found += sorted(videos) or [os.fspath(path)]
    return found


_HEADERS = {"label", "labels", "label_id", "class", "class_id", "classname", "class_name", "category", "target"}
_NAMES = {"\t": "with a tab between them", ",": "with a comma between them", " ": "with a space between them"}
_MAX_CLASSES = 100_000  # a larger number is a mistake, and would take the memory of as many names


def _split(line: str, separator: str) -> tuple[str, str] | None:
    """Path and label of a line; None for a line that is none."""
    quoted = re.fullmatch(rf'(.*){separator}\s*("(?:[^"]|"")*")\s*', line)
    name, label = (quoted[1], quoted[2]) if quoted else line.rstrip().rpartition(separator)[::2]
    name, label = (
        text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
        for text in (name.strip(), label.strip())
    )
    return (name, label) if name and label else None


def _fit(line: str, separator: str, known: set[str]) -> int:
    """How well a line reads with a separator."""
    row = _split(line, separator)
    if row is None:
        return -1
    return 2 * (_is_number(row[1]) or row[1] in known) + has_extension(row[0])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _label_numbers(
    path: str | Path, found: dict[int, str], labels: list[str] | None
) -> tuple[dict[int, int], list[str]]:
    """The label of each line as a number, and the class names.

    Args:
        path: the file, for the error's text.
        found: the label of each line as it stands there.
        labels: class names, if they are known.
    """
    numeric = sum(map(_is_number, found.values()))
    if not labels and numeric == 0:
        labels = sorted(set(found.values()))
    places = {name: place for place, name in enumerate(labels or ())}
    most = len(places) or _MAX_CLASSES
    numbers: dict[int, int] = {}
    for line, label in found.items():
        if _is_number(label) and 2 * numeric >= len(found):
            if len(label) > 9 or int(label) >= most:
                raise XViTError(f"{path} line {line}: label {label}: expected a number from 0 to {most - 1}")
            numbers[line] = int(label)
        elif label in places:
            numbers[line] = places[label]
        elif places:
            near = did_you_mean(label, places)
            raise XViTError(f'{path} line {line}: label "{label}" is not one of the {len(places)} classes.{near}')
        else:
            raise XViTError(f'{path} line {line}: label "{label}": expected a number from 0, as in other lines')
    return numbers, labels or [str(number) for number in range(max(numbers.values()) + 1)]


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
        return any(is_picture(entry.name) for entry in entries)


def _some_extensions() -> str:
    return ", ".join(sorted(VIDEO_EXTENSIONS - {".mp4"}))
