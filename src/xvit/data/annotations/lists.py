"""Lists: a line a video, its path and its label, or its labels."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from xvit.data.annotations.finder import VideoFinder, has_extension, rate_of
from xvit.data.annotations.samples import ParsedAnnotations, Sample, class_indices, read_text
from xvit.utils.errors import XViTError, did_you_mean

_HEADERS = {"label", "labels", "label_id", "class", "class_id", "classname", "class_name", "category", "target"}
_NAMES = {"\t": "with a tab between them", ",": "with a comma between them", " ": "with a space between them"}
_MAX_CLASSES = 100_000  # a larger number is a mistake, and would take the memory of as many names


def read_list(
    path: str | Path, videos: VideoFinder, *, labels: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of `path label`, as PySlowFast's, MMAction2's and VideoMAE's lists are.

    What separates the two is a tab, a comma or a space, the last one of the line, and the same in all lines. Either may
    stand in double quotes. A first line that names the columns is left out. ClassNames are numbers from 0 on, or names.
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
    numbers, names = _label_numbers(path, [(number, label) for number, (_, label) in found.items()], labels)
    samples, missing = [], []
    for label, (name, _) in zip(numbers, found.values(), strict=True):
        place = videos.at(name)
        if place is None and (counted := re.fullmatch(rf"(.+?)\s*{separator}\s*[0-9]+", name)):
            place = videos.at(counted[1])
        if place is None:
            missing.append(name)
        else:
            samples.append(Sample(path=place, label=label, id=name, fps=rate_of(place, fps)))
    return ParsedAnnotations(samples, names, list(dict.fromkeys(missing)), len(missing))


def read_multi_label_list(
    path: str | Path, videos: VideoFinder, *, labels: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of a path and any number of labels, for classes that do not exclude each other.

    Between them are tabs, commas or spaces, the same in all lines; between labels a semicolon may stand as well. Where
    a path ends and labels begin is seen by what is there: the path is the longest beginning of a line that is a video.
    Either may stand in double quotes. A first line that names the columns is left out.

    Args:
        path: the list.
        videos: where the paths lead.
        labels: class names; without, those of the list, sorted, or its numbers.
        fps: frames a second of folders of frames.

    Raises:
        XViTError: no such file, no lines, no label in any line, a label that is no class.
    """
    lines = {number: line.strip() for number, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()}
    if not lines:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and its labels")
    separator = max("\t, ", key=lambda sep: sum(_peel(line, sep, videos)[0] is not None for line in lines.values()))
    rows = {number: _peel(line, separator, videos) for number, line in lines.items()}
    first = next(iter(rows))
    place, name, heads = rows[first]
    if place is None and not has_extension(name) and heads and heads[0].lower() in _HEADERS - set(labels or ()):
        del rows[first]
    told = [(number, label) for number, (_, _, its_labels) in rows.items() for label in its_labels]
    if not told:
        raise XViTError(f"{path}: no labels in it: expected lines of a path and its labels, {_NAMES[separator]}")
    numbers, names = _label_numbers(path, told, labels)
    classes: dict[int, set[int]] = {number: set() for number in rows}
    for (number, _), found in zip(told, numbers, strict=True):
        classes[number].add(found)
    samples, missing = [], []
    for number, (place, name, _) in rows.items():
        if place is None:
            missing.append(name)
        else:
            label = tuple(sorted(classes[number]))
            samples.append(Sample(path=place, label=label, id=name, fps=rate_of(place, fps)))
    return ParsedAnnotations(samples, names, list(dict.fromkeys(missing)), len(missing))


def write_list(path: str | Path, samples: Sequence[Sample], root: str | Path) -> None:
    """Write what `read_list` or `read_multi_label_list` reads: paths relative to the root where they lie in it, a tab,
    the label's number, or the numbers with a semicolon between them.

    Args:
        path: the file.
        samples: whole videos with labels of one task each.
        root: folder of the videos.

    Raises:
        XViTError: a stretch of a video, no label or one of several tasks, a line break in a name.
    """
    lines = []
    for sample in samples:
        if not isinstance(sample.label, int | tuple) or (sample.start, sample.stop) != (None, None):
            raise XViTError(f"{sample.id}: a list holds whole videos with one label each")
        inside = os.path.relpath(sample.path, root)
        name = os.path.abspath(sample.path) if inside.startswith("..") else Path(inside).as_posix()
        if "\n" in name:
            raise XViTError(f"{name!r}: a list cannot hold a line break in a name")
        if name != name.strip() or name.startswith('"'):
            name = '"{}"'.format(name.replace('"', '""'))
        lines.append(f"{name}\t{';'.join(map(str, class_indices(sample.label)))}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def _peel(line: str, separator: str, videos: VideoFinder) -> tuple[str | None, str, list[str]]:
    """Where the video is, its name, and its labels; None and a guess where there is no video."""
    if quoted := re.match(rf'"((?:[^"]|"")*)"\s*({separator}|$)', line):
        name, rest = quoted[1].replace('""', '"'), line[quoted.end() :]
    else:
        words = [word.strip() for word in line.split(separator)]
        names = [separator.join(words[:cut]) for cut in range(len(words), 0, -1)]
        name = next((name for name in names if videos.at(name)), "")
        name = name or next((name for name in names if has_extension(name)), words[0])
        rest = separator.join(words)[len(name) :]
    labels = [label.strip().strip('"').strip() for label in rest.replace(separator, ";").split(";")]
    return videos.at(name), name, [label for label in labels if label]


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
    path: str | Path, found: Sequence[tuple[int, str]], labels: list[str] | None
) -> tuple[list[int], list[str]]:
    """The labels as numbers, and the class names.

    Args:
        path: the file, for the error's text.
        found: labels as they stand in the file, with their lines.
        labels: class names, if they are known.
    """
    numeric = sum(_is_number(label) for _, label in found)
    if not labels and numeric == 0:
        labels = sorted({label for _, label in found})
    places = {name: place for place, name in enumerate(labels or ())}
    most = len(places) or _MAX_CLASSES
    numbers: list[int] = []
    for line, label in found:
        if _is_number(label) and 2 * numeric >= len(found):
            if len(label) > 9 or int(label) >= most:
                raise XViTError(f"{path} line {line}: label {label}: expected a number from 0 to {most - 1}")
            numbers.append(int(label))
        elif label in places:
            numbers.append(places[label])
        elif places:
            near = did_you_mean(label, places)
            raise XViTError(f'{path} line {line}: label "{label}" is not one of the {len(places)} classes.{near}')
        else:
            raise XViTError(f'{path} line {line}: label "{label}": expected a number from 0, as in other lines')
    return numbers, labels or [str(number) for number in range(max(numbers) + 1)]
