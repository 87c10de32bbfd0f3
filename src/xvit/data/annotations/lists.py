"""Annotation lists: each line is the path of a video and its label or labels."""

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from xvit.data.annotations.finder import VideoFinder
from xvit.data.annotations.samples import ParsedAnnotations, Sample, class_index, class_indices
from xvit.data.video_names import VIDEO_EXTENSIONS, has_video_extension
from xvit.utils.addresses import is_address
from xvit.utils.errors import XViTError
from xvit.utils.text import (
    CSV_DELIMITERS,
    check_text,
    is_index,
    numbered_lines,
    read_csv,
    read_text,
    split_fields,
    unquote,
)

_PATH_COLUMNS = ["path", "video_path", "file_path", "filepath", "filename", "file_name", "file", "video", "video_name"]
_PATH_COLUMNS += ["clip", "clip_path", "name"]
LABEL_COLUMNS = ("label", "labels", "label_id", "class", "class_id", "classname", "class_name", "category", "target")
_SEPARATORS = {"\t": "a tab", ",": "a comma", ";": "a semicolon", " ": "a space"}
_EXTENSIONS = "|".join(re.escape(extension) for extension in sorted(VIDEO_EXTENSIONS))
_PATH_AND_LABEL = re.compile(rf"(.*(?:{_EXTENSIONS}))\s+(\S.*)", re.IGNORECASE)  # of a path that may have spaces
_MAX_PATH = 4096  # characters; no file system has longer paths
_MAX_WORDS = 256  # that a separator may part a path into
_MAX_SHOWN = 200  # characters of a line in a message
_SCORED_LINES = 1000  # of a list, from which its separator is recognised
MAX_CLASSES = 100_000  # a larger index is a mistake, and would allocate as many class names


def read_list(
    path: str | Path, videos: VideoFinder, *, class_names: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of `path label`, the format of PySlowFast, MMAction2 and VideoMAE.

    The separator is the last tab, comma, semicolon or space of a line, the same in all lines. If it is a space, a path
    ends with the extension of a video, so that path and label may contain spaces. Path and label may be in double
    quotes. A first line with column names is skipped; in a CSV file with more columns, it says where paths and labels
    are. Labels are indices from 0, or class names. For a folder of frames, the number of frames may stand between the
    path and the label.

    Args:
        path: the list.
        videos: finds the videos.
        class_names: class names; None takes those in the list, sorted, or its class indices.
        fps: frames per second of folders of frames.

    Raises:
        XViTError: no such file, no lines, a first line that is not understood, a line without a path and a label, an
            unknown class.
    """
    lines = numbered_lines(path, read_text(path, raw_bytes=True))
    separator, rows = ",", _read_table(path, lines)
    if not rows:
        known = set(class_names or ())
        lines = {number: line.rstrip(",; \t") for number, line in lines.items()}
        first_lines = list(lines.values())[:_SCORED_LINES]
        separator = max(_SEPARATORS, key=lambda key: sum(_score_line(line, key, known) for line in first_lines))
        rows = {number: _split_line(line, separator, videos) for number, line in lines.items()}
        first = next(iter(rows), 0)
        names = [name for name, _ in rows.values()]
        if rows and _is_header(f"{path} line {first}", names, rows[first][1], known, videos):
            del rows[first]
    if not rows:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and a label")
    for number, row in rows.items():
        if not all(row):
            expected = f"expected a path and a label, separated by {_SEPARATORS[separator]}"
            raise XViTError(f"{path} line {number}: {lines[number][:_MAX_SHOWN]!r}: {expected}")
    labels = [(number, label) for number, (_, label) in rows.items()]
    parsed, indices = _parse_labels(path, labels, class_names)
    for index, (name, _) in zip(indices, rows.values(), strict=True):
        parsed.add_row(_find_with_count(name, separator, videos), name, index, fps=fps)
    return parsed


def read_multi_label_list(
    path: str | Path, videos: VideoFinder, *, class_names: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read lines of a path and any number of labels, for multi-label data.

    The separator is a tab, comma, semicolon or space, the same in all lines; labels may also be separated by
    semicolons. The path is the longest beginning of a line that is the path of an existing video; the rest are labels.
    Quotes, column names and arguments are those of `read_list`.

    Raises:
        XViTError: no such file, no lines, no label in any line, an unknown class.
    """
    lines = numbered_lines(path, read_text(path, raw_bytes=True))
    if not lines:
        raise XViTError(f"{path}: no videos in it: expected lines of a path and its labels")

    def count_found(separator: str) -> int:
        first_lines = list(lines.values())[:_SCORED_LINES]
        return sum(_split_multi_label_line(line, separator, videos)[0] is not None for line in first_lines)

    separator = max(_SEPARATORS, key=count_found)
    rows = {number: _split_multi_label_line(line, separator, videos) for number, line in lines.items()}
    first = next(iter(rows))
    names, label = [name for _, name, _ in rows.values()], next(iter(rows[first][2]), "")
    if label and _is_header(f"{path} line {first}", names, label, set(class_names or ()), videos):
        del rows[first]
    all_labels = [(number, label) for number, (_, _, labels) in rows.items() for label in labels]
    if not all_labels:
        expected = f"expected lines of a path and its labels, separated by {_SEPARATORS[separator]}"
        raise XViTError(f"{path}: no labels in it: {expected}")
    parsed, indices = _parse_labels(path, all_labels, class_names)
    remaining = iter(indices)
    for video, name, labels in rows.values():
        parsed.add_row(video, name, tuple(sorted(set(islice(remaining, len(labels))))), fps=fps)
    return parsed


def read_paths(path: str | Path, folders: Sequence[str]) -> list[str]:
    """Read the paths of videos or folders from a list; what follows them in a line is ignored.

    The path is the longest beginning of a line, up to a tab, comma, semicolon or space, that exists in one of the
    `folders`, of which the first is taken.

    Raises:
        XViTError: no such file, no lines, a line that names no existing file or folder.
    """
    lines = numbered_lines(path, read_text(path, raw_bytes=True))
    finders = [VideoFinder(folder) for folder in dict.fromkeys(folders)]
    table = {number: name for number, (name, _) in _read_table(path, lines).items()}
    found = []
    for number, line in (table or lines).items():
        existing = (finder.find_by_path(name) for name in _beginnings(line) for finder in finders)
        video = next(filter(None, existing), None)
        if video is not None:
            found.append(video)
        elif number != next(iter(lines)) or not _names_columns(line):
            where = " or ".join(str(finder.root) for finder in finders)
            expected = f"expected the path of a video, but it is not in {where}"
            raise XViTError(f"{path} line {number}: {line[:_MAX_SHOWN]!r}: {expected}")
    if not found:
        raise XViTError(f"{path}: no videos in it: expected lines of paths")
    return found


def _beginnings(line: str) -> list[str]:
    """What may be the path in a line, longest first. If one has the extension of a video, so must the path."""
    line = line[:_MAX_PATH]
    words = islice(re.finditer(r"[\t,; ]+", line), _MAX_WORDS)
    ends = [len(line), *reversed([match.start() for match in words])]
    names = [unquote(line[:end].strip()) for end in ends if end]
    return [name for name in names if has_video_extension(name)] or names


def _names_columns(line: str) -> bool:
    first = re.split(r"[\t,; ]", line, maxsplit=1)[0].strip('"').lower()
    return first in {*_PATH_COLUMNS, *LABEL_COLUMNS}


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
        name = _relative_name(sample.path, root)
        if "\n" in name:
            raise XViTError(f"{name!r}: a list cannot hold a path with a line break")
        if name != name.strip() or name.startswith(('"', "\ufeff")):
            name = '"{}"'.format(name.replace('"', '""'))
        lines.append(f"{name}\t{';'.join(map(str, class_indices(sample.label)))}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def _relative_name(path: str, root: str | Path) -> str:
    """A path relative to the root if it is inside; an address as it is."""
    if is_address(path):
        return path
    relative_path = os.path.relpath(path, root)
    outside = relative_path.split(os.sep)[0] == ".."
    return os.path.abspath(path) if outside else Path(relative_path).as_posix()


def _read_table(path: str | Path, lines: dict[int, str]) -> dict[int, tuple[str, str]]:
    """Path and label of each row of a CSV file whose first line names them among others or in another order.

    Empty if the first line does not. Lists of two columns are read by the other rules, which need no quotes.
    """
    first = next(iter(lines.values()), "")
    for delimiter in CSV_DELIMITERS:
        header = [name.lower() for name in split_fields(first, delimiter) if name]
        path_column = next((column for column in _PATH_COLUMNS if column in header), "")
        label_column = next((column for column in LABEL_COLUMNS if column in header), "")
        if path_column and label_column and (len(header) > 2 or header[0] == label_column):
            rows = read_csv(path, (path_column, label_column))
            return {int(where.rpartition(" ")[2]): (row[path_column], row[label_column]) for where, row in rows}
    return {}


def _split_line(line: str, separator: str, videos: VideoFinder | None = None) -> tuple[str, str]:
    """Split a line into path and label, which are empty if they are missing.

    With `videos`, spaces in the path of a folder of frames and in a label are told apart by what exists.
    """
    quoted = re.fullmatch(rf'(.*){_between(separator)}("(?:[^"]|"")*")\s*', line)
    match = quoted or (_PATH_AND_LABEL.fullmatch(line) if separator == " " else None)
    name, label = (match[1], match[2]) if match else line.rstrip().rpartition(separator)[::2]
    if videos and separator == " " and not match and _find_with_count(name, separator, videos) is None:
        words = line[:_MAX_PATH].split(" ")[:_MAX_WORDS]
        names = (" ".join(words[:end]) for end in range(len(words) - 2, 0, -1))
        name = next((shorter for shorter in names if videos.find_by_path(shorter)), name)
        label = line[len(name) :]
    return unquote(name.strip()), unquote(label.strip())


def _between(separator: str) -> str:
    """The pattern of a separator and the white space around it, which takes linear time in its length."""
    # It begins after what is no white space, and gives nothing back of what it has matched.
    return rf"(?<!\s)(?>[^\S{separator}]*{separator})\s*+" if separator.isspace() else rf"(?<!\s)\s*+{separator}\s*+"


def _find_with_count(name: str, separator: str, videos: VideoFinder) -> str | None:
    """Find a video; after the name of a folder of frames, there may be the number of its frames."""
    video = videos.find_by_path(name)
    if video is None and (without_count := re.fullmatch(rf"(.+){_between(separator)}[0-9]++", name)):
        video = videos.find_by_path(without_count[1])
    return video


def _is_header(where: str, names: Sequence[str], label: str, known: set[str], videos: VideoFinder) -> bool:
    """Whether the first line names columns, from the paths of all lines and its label.

    Raises:
        XViTError: it seems to, but the names are not known.
    """
    first, *others = names
    if has_video_extension(first) or is_index(label) or label in known:
        return False
    if label.lower() in LABEL_COLUMNS:
        return True
    if others and all(map(has_video_extension, others)) and videos.find_by_path(first) is None:
        expected = f"expected a video and a label, or columns such as {_PATH_COLUMNS[0]},{LABEL_COLUMNS[0]}"
        columns = f"known: {', '.join(_PATH_COLUMNS)} for paths; {', '.join(LABEL_COLUMNS)} for labels"
        raise XViTError(f'{where}: "{first}" and "{label}": {expected} ({columns})')
    return False


def _score_line(line: str, separator: str, class_names: set[str]) -> int:
    """How plausible path and label are if the line is split at this separator; higher is better."""
    name, label = _split_line(line, separator)
    return 2 * (is_index(label) or label in class_names) + has_video_extension(name) if name and label else -1


def _split_multi_label_line(line: str, separator: str, videos: VideoFinder) -> tuple[str | None, str, list[str]]:
    """Where the video is, its name, and its labels. Without a video: None, and a guess of the name."""
    if quoted := re.match(rf'"((?:[^"]|"")*)"\s*({separator}|$)', line):
        name, rest = quoted[1].replace('""', '"'), line[quoted.end() :]
    else:
        words = [word.strip() for word in line.split(separator)]
        ends = range(min(line[:_MAX_PATH].count(separator) + 1, _MAX_WORDS), 0, -1)
        names = [separator.join(words[:end]) for end in ends]
        name = next((name for name in names if videos.find_by_path(name)), "")
        name = name or next((name for name in names if has_video_extension(name)), words[0])
        rest = separator.join(words)[len(name) :]
    labels = [label.strip().strip('"').strip() for label in rest.replace(separator, ";").split(";")]
    return videos.find_by_path(name), name, [label for label in labels if label]


def _parse_labels(
    path: str | Path, labels: Sequence[tuple[int, str]], class_names: list[str] | None
) -> tuple[ParsedAnnotations, list[int]]:
    """Convert pairs of line number and label text to class indices; also return annotations without rows."""
    num_numeric = sum(is_index(label) for _, label in labels)
    if not class_names and num_numeric == 0:
        class_names = sorted({check_text(f"{path} line {line}", label) for line, label in labels})
    index_of = {name: index for index, name in enumerate(class_names or ())}
    num_classes = len(index_of) or MAX_CLASSES
    indices: list[int] = []
    for line, label in labels:
        where = f"{path} line {line}"
        check_text(where, label)
        if is_index(label) and 2 * num_numeric >= len(labels):
            if len(label) > 9 or int(label) >= num_classes:
                from_one = label == str(num_classes) and "0" not in {label for _, label in labels}
                advice = ": labels seem to be numbered from 1: subtract 1 from each" if from_one else ""
                expected = f"expected a class index from 0 to {num_classes - 1}{advice}"
                raise XViTError(f"{where}: label {label[:_MAX_SHOWN]}: {expected}")
            indices.append(int(label))
        elif index_of:
            indices.append(class_index(where, "label", label, index_of))
        else:
            raise XViTError(f'{where}: label "{label}": expected a class index, as in the other lines')
    parsed = ParsedAnnotations(class_names or [str(index) for index in range(max(indices) + 1)])
    if not class_names and sorted({*indices}) == list(range(1, max(indices) + 1)) and max(indices) > 1:
        parsed.problems.append(
            f"labels are numbered from 1 to {max(indices)}, without 0: expected class indices from 0: subtract 1 from "
            "each label in all lists; or, if class 0 has no videos here, give the names of all classes as "
            "data.label_files"
        )
    return parsed, indices
