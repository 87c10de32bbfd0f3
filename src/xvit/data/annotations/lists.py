"""Annotation lists: each line is the path of a video and its label or labels."""

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from xvit.data.annotations.finder import VideoFinder, has_video_extension
from xvit.data.annotations.samples import ParsedAnnotations, Sample, class_index, class_indices, read_text
from xvit.utils.errors import XViTError

_HEADERS = {"label", "labels", "label_id", "class", "class_id", "classname", "class_name", "category", "target"}
_SEPARATOR_NAMES = {"\t": "separated by a tab", ",": "separated by a comma", " ": "separated by a space"}
_MAX_CLASSES = 100_000  # a larger index is a mistake, and would allocate as many class names


def read_list(
    path: str | Path, videos: VideoFinder, *, class_names: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of `path label`, the format of PySlowFast, MMAction2 and VideoMAE.

    The separator is the last tab, comma or space of a line, the same in all lines. Path and label may be in double
    quotes. A first line with column names is skipped. Labels are indices from 0, or class names. For a folder of
    frames, the number of frames may stand between the path and the label.

    Args:
        class_names: class names; None takes those in the list, sorted, or its class indices.
        fps: frames per second of folders of frames.

    Raises:
        XViTError: no such file, no lines, a line without a path and a label, an unknown class.
    """
    text = read_text(path).replace("\r\n", "\n")
    lines = {number: line for number, line in enumerate(text.split("\n"), start=1) if line.strip()}
    known = set(class_names or ())
    separator = max("\t, ", key=lambda separator: sum(_score_line(line, separator, known) for line in lines.values()))
    rows = {number: _split_line(line, separator) for number, line in lines.items()}
    first = next(iter(rows), 0)
    if rows and _is_header(*rows[first], known):
        del rows[first]
    if not rows:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and a label")
    for number, row in rows.items():
        if not all(row):
            expected = f"expected a path and a label, {_SEPARATOR_NAMES[separator]}"
            raise XViTError(f"{path} line {number}: {lines[number]!r}: {expected}")
    labels, names = _parse_labels(path, [(number, label) for number, (_, label) in rows.items()], class_names)
    parsed = ParsedAnnotations(names)
    for label, (name, _) in zip(labels, rows.values(), strict=True):
        video = videos.find_by_path(name)
        if video is None and (without_count := re.fullmatch(rf"(.+?)\s*{separator}\s*[0-9]+", name)):
            video = videos.find_by_path(without_count[1])
        parsed.add_row(video, name, label, fps=fps)
    return parsed


def read_multi_label_list(
    path: str | Path, videos: VideoFinder, *, class_names: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of a path and any number of labels, for multi-label data.

    The separator is a tab, comma or space, the same in all lines; labels may also be separated by semicolons. The path
    is the longest beginning of a line that is the path of an existing video; the rest are labels. Quotes, column names
    and arguments are those of `read_list`.

    Raises:
        XViTError: no such file, no lines, no label in any line, an unknown class.
    """
    lines = {number: line.strip() for number, line in enumerate(read_text(path).splitlines(), start=1) if line.strip()}
    if not lines:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and its labels")
    splits = {
        separator: {number: _split_multi_label_line(line, separator, videos) for number, line in lines.items()}
        for separator in "\t, "
    }
    separator = max(splits, key=lambda key: sum(video is not None for video, _, _ in splits[key].values()))
    rows = splits[separator]
    first = next(iter(rows))
    video, name, labels = rows[first]
    if video is None and labels and _is_header(name, labels[0], set(class_names or ())):
        del rows[first]
    all_labels = [(number, label) for number, (_, _, labels) in rows.items() for label in labels]
    if not all_labels:
        expected = f"expected lines of a path and its labels, {_SEPARATOR_NAMES[separator]}"
        raise XViTError(f"{path}: no labels in it: {expected}")
    indices, names = _parse_labels(path, all_labels, class_names)
    remaining = iter(indices)
    parsed = ParsedAnnotations(names)
    for video, name, labels in rows.values():
        parsed.add_row(video, name, tuple(sorted(set(islice(remaining, len(labels))))), fps=fps)
    return parsed


def write_list(path: str | Path, samples: Sequence[Sample], root: str | Path) -> None:
    """Write a list for `read_list` or `read_multi_label_list`.

    A line is a path, relative to the folder `root` if it is inside, a tab, and the class index, or indices separated by
    semicolons.

    Raises:
        XViTError: a segment of a video, a sample without a label or with several tasks, a line break in a path.
    """
    lines = []
    for sample in samples:
        if not isinstance(sample.label, int | tuple) or (sample.start, sample.stop) != (None, None):
            raise XViTError(f"{sample.id}: a list can only hold whole videos with labels of a single task")
        relative_path = os.path.relpath(sample.path, root)
        outside = relative_path.startswith("..")
        name = os.path.abspath(sample.path) if outside else Path(relative_path).as_posix()
        if "\n" in name:
            raise XViTError(f"{name!r}: a list cannot hold a path with a line break")
        if name != name.strip() or name.startswith('"'):
            name = '"{}"'.format(name.replace('"', '""'))
        lines.append(f"{name}\t{';'.join(map(str, class_indices(sample.label)))}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def _split_line(line: str, separator: str) -> tuple[str, str]:
    """Split a line into path and label, which are empty if they are missing."""
    quoted = re.fullmatch(rf'(.*){separator}\s*("(?:[^"]|"")*")\s*', line)
    name, label = (quoted[1], quoted[2]) if quoted else line.rstrip().rpartition(separator)[::2]
    return _unquote(name.strip()), _unquote(label.strip())


def _unquote(text: str) -> str:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _is_header(name: str, label: str, class_names: set[str]) -> bool:
    return label.lower() in _HEADERS and label not in class_names and not has_video_extension(name)


def _score_line(line: str, separator: str, class_names: set[str]) -> int:
    """How plausible path and label are if the line is split at this separator; higher is better."""
    name, label = _split_line(line, separator)
    return 2 * (_is_index(label) or label in class_names) + has_video_extension(name) if name and label else -1


def _split_multi_label_line(line: str, separator: str, videos: VideoFinder) -> tuple[str | None, str, list[str]]:
    """Where the video is, its name, and its labels. Without a video: None, and a guess of the name."""
    if quoted := re.match(rf'"((?:[^"]|"")*)"\s*({separator}|$)', line):
        name, rest = quoted[1].replace('""', '"'), line[quoted.end() :]
    else:
        words = [word.strip() for word in line.split(separator)]
        names = [separator.join(words[:end]) for end in range(len(words), 0, -1)]
        name = next((name for name in names if videos.find_by_path(name)), "")
        name = name or next((name for name in names if has_video_extension(name)), words[0])
        rest = separator.join(words)[len(name) :]
    labels = [label.strip().strip('"').strip() for label in rest.replace(separator, ";").split(";")]
    return videos.find_by_path(name), name, [label for label in labels if label]


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _parse_labels(
    path: str | Path, labels: Sequence[tuple[int, str]], class_names: list[str] | None
) -> tuple[list[int], list[str]]:
    """Convert pairs of line number and label text to class indices; also return the class names."""
    num_numeric = sum(_is_index(label) for _, label in labels)
    if not class_names and num_numeric == 0:
        class_names = sorted({label for _, label in labels})
    index_of = {name: index for index, name in enumerate(class_names or ())}
    num_classes = len(index_of) or _MAX_CLASSES
    indices: list[int] = []
    for line, label in labels:
        where = f"{path} line {line}"
        if _is_index(label) and 2 * num_numeric >= len(labels):
            if len(label) > 9 or int(label) >= num_classes:
                raise XViTError(f"{where}: label {label}: expected a class index from 0 to {num_classes - 1}")
            indices.append(int(label))
        elif index_of:
            indices.append(class_index(where, "label", label, index_of))
        else:
            raise XViTError(f'{where}: label "{label}": expected a class index, as in the other lines')
    return indices, class_names or [str(index) for index in range(max(indices) + 1)]
