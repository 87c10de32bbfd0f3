"""Files of class names."""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvit.utils.errors import XViTError, one_line
from xvit.utils.text import CSV_DELIMITERS, is_index, numbered_lines, read_csv, read_text, split_fields, unquote

# Known columns, in the order in which they are looked up: in "label;name", the label is the index.
_NAME_COLUMNS = ("name", "key", "class_name", "classname", "label_name", "class", "category", "action", "label")
_INDEX_COLUMNS = ("id", "index", "idx", "class_id", "label_id", "class_index", "number", "label", "class")
_HEADERS = {*_NAME_COLUMNS, *_INDEX_COLUMNS, "names", "classes", "labels", "class_names", "actions", "categories"}
_INDEX_FIRST = re.compile(r'(?P<index>"?[0-9]+"?)\s*(?:[,;:\t]\s*|\s)(?P<name>.+)')
# The separator begins after what is no white space, and gives nothing back: this takes linear time.
_INDEX_LAST = re.compile(r'(?P<name>.+?)(?<!\s)(?:\s*+[,;]|[^\S\t]*+\t)\s*+(?P<index>"?[0-9]++"?)')
_AS_JSON = 'To use whole lines as names, write them as JSON: ["first name", "second name", ...]'

Entry = tuple[str, int | None, str]  # where it is, such as "line 3"; class index; name


def read_class_names(path: str | Path) -> list[str]:
    """Read class names from a file, in the order of their indices.

    Args:
        path: text with one name per line, or with an index from 0 and a name; a table (comma, semicolon or tab) whose
            first line names a column of indices and one of names, such as `id,name`; or JSON with a list of names, a
            mapping of names to indices (as in Something-Something's labels file) or of indices to names.

    Raises:
        XViTError: no such file, another encoding, no names, duplicate names, indices that are not 0, 1, 2, ..., a
            first line that seems to name columns but is not understood.
    """
    text = read_text(path)
    is_json = Path(path).suffix.lower() == ".json" or _seems_json(text)
    entries = _parse_json(path, text) if is_json else _parse_text(path, text)
    if not entries:
        raise XViTError(f"{path}: no class names in it")
    if any(index is not None for _, index, _ in entries):
        _check_indices(path, [index for _, index, _ in entries])
        entries.sort(key=lambda entry: entry[1] or 0)
    seen: dict[str, str] = {}
    for where, _, name in entries:
        if not name:
            raise XViTError(f"{path}: {where} is empty: expected a class name")
        if name in seen:
            lines = f"{seen[name]} and {where}".replace("line", "lines", 1).replace("and line ", "and ")
            raise XViTError(f'{path}: class "{name}" is in {lines}')
        seen[name] = where
    return list(seen)


def _seems_json(text: str) -> bool:
    """Whether a file of any name holds a JSON list or mapping; "[Something] falling" is a name."""
    if not text.lstrip().startswith(("[", "{")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_json(path: str | Path, text: str) -> list[Entry]:
    try:
        values = json.loads(text, object_pairs_hook=_to_dict)
    except (ValueError, RecursionError) as error:
        raise XViTError(f"{path}: not readable as a file of class names: {one_line(error)}") from None
    pairs: list[tuple[Any, Any]] = []  # index and name
    if isinstance(values, list):
        pairs = [(None, name) for name in values]
    elif isinstance(values, dict) and all(is_index(key) and not is_index(str(name)) for key, name in values.items()):
        pairs = [(_to_index(key), name) for key, name in values.items()]
    elif isinstance(values, dict):
        pairs = [(_to_index(str(value)), name) for name, value in values.items()]
    if not isinstance(values, list | dict) or not all(isinstance(name, str) for _, name in pairs):
        raise XViTError(f"{path}: expected a list of class names, or a mapping of names to indices")
    return [(f"entry {number}", index, name.strip()) for number, (index, name) in enumerate(pairs, start=1)]


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f'"{next(key for key, count in counts.items() if count > 1)}" is there twice')
    return values


def _parse_text(path: str | Path, text: str) -> list[Entry]:
    lines = _strip_delimiters(numbered_lines(path, text))
    first = next(iter(lines.values()), "")
    for delimiter in CSV_DELIMITERS:
        if columns := _find_columns(split_fields(first, delimiter)):
            name, index = columns
            rows = read_csv(path, columns, raw_bytes=False)
            return [(where.removeprefix(f"{path} "), _to_index(row[index]), row[name]) for where, row in rows]
    if _find_columns(first.split()) and len(first.split()) == 2:
        del lines[next(iter(lines))]  # columns separated by white space
        if not all(map(_INDEX_FIRST.fullmatch, lines.values())):
            raise _unknown_columns(path, first)
    for pattern in (_INDEX_FIRST, _INDEX_LAST):
        matches = {number: pattern.fullmatch(line) for number, line in lines.items()}
        if lines and all(matches.values()):
            found = [(number, match) for number, match in matches.items() if match]
            return [(f"line {number}", _to_index(match["index"]), unquote(match["name"])) for number, match in found]
    if first and (_is_header(first) or _is_table(path, list(lines.values()))):
        raise _unknown_columns(path, first)
    for number in range(1, max(lines, default=0)):
        if number not in lines:
            raise XViTError(f"{path}: line {number} is empty: expected a class name")
    return [(f"line {number}", None, unquote(line)) for number, line in lines.items()]


def _strip_delimiters(lines: dict[int, str]) -> dict[int, str]:
    """The lines without the delimiters at their ends that all of them have; a single line keeps its own."""
    starts = {number: len(line.rstrip(f",;{string.whitespace}")) for number, line in lines.items()}
    ends = {n: [end for end in range(starts[n], len(line)) if line[end] in ",;"] for n, line in lines.items()}
    common = min(map(len, ends.values()), default=0)
    if len(lines) < 2 or not common:
        return lines
    return {number: line[: ends[number][-common]].strip() for number, line in lines.items()}


def _find_columns(fields: Sequence[str]) -> tuple[str, str] | None:
    """The columns of names and of indices among the fields of a first line; None if it has not both."""
    known = [field.lower() for field in fields]
    name = next((column for column in _NAME_COLUMNS if column in known), "")
    index = next((column for column in _INDEX_COLUMNS if column in known and column != name), "")
    return (name, index) if name and index else None


def _is_header(first: str) -> bool:
    """Whether a line names one column, or one that is known and others."""
    return any(unquote(field.strip()).lower() in _HEADERS for field in re.split("[,;\t]", first))


def _is_table(path: str | Path, lines: list[str]) -> bool:
    """Whether the lines have several columns: more than a name each, but no first line or indices that explain them."""
    for delimiter in ",;\t" if Path(path).suffix.lower() in (".csv", ".tsv") else ";\t":
        counts = {len(split_fields(line, delimiter)) for line in lines}
        if len(counts) == 1 and counts != {1}:
            return True
    indexed = (re.match(r"[0-9]++\s*[,;\t]", line) or _INDEX_LAST.fullmatch(line) for line in lines)
    return sum(map(bool, indexed)) > len(lines) / 2


def _unknown_columns(path: str | Path, first: str) -> XViTError:
    known = f"a name ({', '.join(_NAME_COLUMNS)}) and an index ({', '.join(_INDEX_COLUMNS)})"
    return XViTError(
        f'{path} line 1: "{first[:100]}": seems to name columns or to be a row of several: expected columns {known}, '
        f"or one name per line without a first line of column names. {_AS_JSON}"
    )


def _check_indices(path: str | Path, indices: Sequence[int | None]) -> None:
    size = len(indices)
    if sorted(index or 0 for index in indices) == list(range(size)):
        return
    expected = f"expected the class indices 0 to {size - 1}, each once"
    if sorted(index or 0 for index in indices) == list(range(1, size + 1)):
        advice = "subtract 1 from each, here and in the annotations"
        raise XViTError(f"{path}: classes are numbered from 1 to {size}: {expected}: {advice}. {_AS_JSON}")
    raise XViTError(f"{path}: {expected}. {_AS_JSON}")


def _to_index(text: str) -> int:
    text = unquote(text)
    return int(text) if is_index(text) and len(text) < 10 else -1
