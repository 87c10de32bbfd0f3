"""Text that people bring. Reading it: encodings, line ends, quotes and the columns of CSV files. Showing it: control
characters, passwords, formulas and long lists of names."""

import codecs
import csv
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from xvit.utils.errors import XViTError, did_you_mean

CSV_DELIMITERS = ",;\t"
MAX_BYTES = 2**27  # of a text file: lines of two million videos
MAX_RECORD_BYTES = 2**30  # of a file with several values for each video, which xvit wrote
_MAX_LINE = 2**16  # characters
_BYTE_ORDER_MARKS = {  # those of UTF-32 begin like those of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories: control, format, surrogate, line and paragraph ends
_JOINERS = "\u200c\u200d"  # format characters that only choose the shape of the letters and emoji beside them
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://\S+")  # bounded: a search in long text takes linear time
_ADDRESS_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")

Row = tuple[str, dict[str, str]]  # file and line, for error messages; values by column


def read_text(path: str | Path, *, raw_bytes: bool = False, max_bytes: int = MAX_BYTES) -> str:
    r"""Read a text file: UTF-8, or UTF-16 and UTF-32 with a byte-order mark. All line ends become "\n".

    Args:
        path: the file.
        raw_bytes: keep bytes that are not UTF-8 as Python does in file names, instead of raising an error: file names
            are bytes, in any encoding. `check_text` finds them.
        max_bytes: the largest size of the file.

    Raises:
        XViTError: no such file, not a regular file, not readable, too large, not text, another encoding.
    """
    data = _read_bytes(path, max_bytes)
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    encoding, data = _BYTE_ORDER_MARKS.get(mark, "utf-8"), data[len(mark) :]
    errors = "surrogateescape" if raw_bytes and encoding == "utf-8" else "strict"
    try:
        text = data.decode(encoding, errors=errors)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = f"byte 0x{data[error.start]:02x}"
        raise XViTError(f"{path} line {line}: {byte} is not {encoding.upper()}: save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise XViTError(f"{path} line {line}: a zero byte: not a text file, or UTF-16: save the file as UTF-8")
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")  # "\r" alone: a line end of old systems, or in a name


def check_text(where: str, text: str) -> str:
    """Return the text; raise `XViTError` if it has bytes that are not UTF-8 (see `read_text`)."""
    if not is_utf8(text):
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        raise XViTError(f'{where}: "{shown}" is not UTF-8: save the file as UTF-8')
    return text


def _read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """The contents of a regular file: a pipe or a device may block for ever, or never end."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            found = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
            raise XViTError(f"{path}: {found}, not a regular file")
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror})"
        raise XViTError(f"{path}: {reason}") from None
    if len(data) > max_bytes:
        raise XViTError(f"{path}: larger than {max_bytes // 2**20} MiB, the limit of a text file: split it")
    return data


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text: a file name of other bytes, as Python reads it, cannot be written to a file."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def numbered_lines(path: str | Path, text: str) -> dict[int, str]:
    """The lines of a file that are not blank, by their numbers from 1, without white space at their ends.

    Raises:
        XViTError: a line that is too long.
    """
    lines = dict(enumerate(text.split("\n"), start=1))
    for number, line in lines.items():
        if len(line) > _MAX_LINE:
            raise XViTError(f"{path} line {number}: longer than {_MAX_LINE} characters: expected one entry per line")
    return {number: stripped for number, line in lines.items() if (stripped := line.strip())}


def unquote(text: str) -> str:
    """The text without double quotes around it; doubled quotes inside become single ones."""
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def is_index(text: str) -> bool:
    """Whether the text is a number of the digits 0 to 9."""
    return text.isascii() and text.isdecimal()


def name_some(names: Sequence[str], limit: int = 3) -> str:
    """The first names of many, for a message."""
    return ", ".join(names[:limit]) + ", ..." * (len(names) > limit)


def split_fields(line: str, delimiter: str) -> list[str]:
    """The fields of a line of a CSV file, without quotes and white space around them; one field if it is not CSV."""
    try:
        fields = next(csv.reader([line.replace("\r", " ")], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        fields = [line]
    return [field.strip() for field in fields]


def read_csv(
    path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = (), raw_bytes: bool = True
) -> Iterator[Row]:
    """Read the rows of a CSV file whose first line names the columns, separated by a comma, a semicolon or a tab.

    Args:
        path: the file.
        columns: those that must exist and have a value in each row, in lower case.
        optional: the same, unless none of these exists. They hold names of classes: bytes that are not UTF-8 are an
            error.
        raw_bytes: of `read_text`; for columns with file names.

    Raises:
        XViTError: no such file, another encoding, a missing column, a row that does not fit, no rows.
    """
    text = read_text(path, raw_bytes=raw_bytes)
    numbered_lines(path, text)  # checks their length
    first, _, _ = text.partition("\n")
    delimiter = max(CSV_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    rows = 0
    try:
        header = [" ".join(name.split()).lower() for name in next(reader, [])]
        if any(column in header for column in optional):
            columns = (*columns, *optional)
        _check_header(path, header, columns)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            rows, where = rows + 1, f"{path} line {reader.line_num}"
            while len(values) > len(header) and not values[-1].strip():
                values.pop()  # delimiters at the end of the line
            if len(values) > len(header):
                extra = delimiter.join(values[len(header) :])[:60]
                raise XViTError(f"{where}: {extra!r}: more values than columns in line 1")
            row = dict.fromkeys(header, "") | dict(zip(header, (value.strip() for value in values), strict=False))
            for column in columns:
                if not row[column]:
                    raise XViTError(f"{where}: no {column}")
            for column in set(columns) & set(optional):
                check_text(where, row[column])
            yield where, row
    except csv.Error as error:
        raise XViTError(f"{path} line {reader.line_num}: not readable as CSV: {error}") from None
    if not rows:
        raise XViTError(f"{path}: no rows in it")


def _check_header(path: str | Path, header: Sequence[str], columns: Sequence[str]) -> None:
    shown = ", ".join(header)[:200] or "empty"
    for column in columns:
        if column not in header:
            suggestion = did_you_mean(column, [name[:60] for name in header[:100]])
            expected = f"Expected {', '.join(columns)}; the first line is: {shown}"
            raise XViTError(f"{path} line 1: no column {column}.{suggestion} {expected}")
        if header.count(column) > 1:
            raise XViTError(f"{path} line 1: column {column} is there twice: {shown}")


def printable(text: object) -> str:
    r"""Foreign text, such as a class name, a path or the error of a library, in one line that is safe to show.

    Escape sequences and other control characters, bidirectional controls, line breaks, invisible characters and bytes
    that are not UTF-8 become escapes such as \x1b, \u202e, \n and \udce9. Addresses are shown as `hide_secrets` does.
    """
    text = _ADDRESS.sub(lambda match: hide_secrets(match[0]), str(text))
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    invisible = unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
    return character.encode("unicode_escape").decode() if invisible else character


def hide_secrets(address: str) -> str:
    """An address without user name, password and query, which often holds a token; other text as it is."""
    match = _ADDRESS_PARTS.fullmatch(address)
    if not match:
        return address
    scheme, authority, path, query = match.groups()
    if ":" in authority and "@" in path + query:
        return f"{scheme}..."  # perhaps a password with an unescaped / ? #, which ends at the last @
    return f"{scheme}{authority.rpartition('@')[2]}{path}{'?...' if query else ''}"


def spreadsheet_cell(text: str) -> str:
    """Printable text for a cell of a CSV file that people open in spreadsheets: none is read as a formula.

    An apostrophe is put before what would be one, as OWASP advises.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
