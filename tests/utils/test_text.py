"""One reader for text that people bring: encodings, line ends, quotes, columns."""

import codecs
import os
import socket

import pytest

from xvit.utils.errors import XViTError
from xvit.utils.text import check_text, numbered_lines, read_csv, read_text, split_fields

TEXT = "größe;動作\n\n a b \n"
ENCODINGS = {
    "utf-8": b"",
    "utf-8 with mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(name, line_end, tmp_path):
    data = ENCODINGS[name] + TEXT.replace("\n", line_end).encode(name.split()[0])
    (tmp_path / "file").write_bytes(data)
    assert read_text(tmp_path / "file") == TEXT
    assert numbered_lines("file", read_text(tmp_path / "file")) == {1: "größe;動作", 3: "a b"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\ngrößer\n".encode("latin-1"), "file line 2: byte 0xf6 is not UTF-8: save the file as UTF-8"),
        ("größe\n".encode("cp1252"), "file line 1: byte 0xf6 is not UTF-8"),
        ("a\n動作\n".encode("shift-jis"), "file line 2: byte 0x93 is not UTF-8"),
        ("a\nb\n".encode("utf-16-le"), "file line 1: a zero byte: not a text file, or UTF-16: save the file as UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0b", "file line 1: byte 0x62 is not UTF-16-LE"),
    ],
)
def test_other_encodings_are_an_error_with_the_line(data, message, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(XViTError, match=message):
        read_text(tmp_path / "file")


def test_file_names_keep_their_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"caf\xe9.mp4 caf\xe9\n")
    name, label = read_text(tmp_path / "file", raw_bytes=True).split()
    assert name.encode(errors="surrogateescape") == b"caf\xe9.mp4"
    with pytest.raises(XViTError, match=r"line 1: .* is not UTF-8"):
        check_text("line 1", label)
    assert check_text("line 1", "動作") == "動作"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables(delimiter, mark, tmp_path):
    lines = [['"Name"', "label ", "extra"], ['"a, b; c"', " 1", ""], [], ['"say ""hi"""', '"2"', "x"]]
    text = mark + "".join(delimiter.join(line) + "\r\n" for line in lines)
    (tmp_path / "file").write_bytes(text.encode())
    rows = list(read_csv(tmp_path / "file", ["name", "label"]))
    assert rows == [
        (f"{tmp_path}/file line 2", {"name": "a, b; c", "label": "1", "extra": ""}),
        (f"{tmp_path}/file line 4", {"name": 'say "hi"', "label": "2", "extra": "x"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name;lable\na;1\n", 'line 1: no column label. Did you mean "lable"\\? Expected name, label; .*: name, lable'),
        ("name,label,name\na,1,b\n", "line 1: column name is there twice: name, label, name"),
        ("name,label\na,1,2\n", "line 2: '2': more values than columns in line 1"),
        ("name,label\na,\n", "line 2: no label"),
        ("name,label\n\n", "no rows in it"),
        ("", "line 1: no column name.*the first line is: empty"),
    ],
)
def test_tables_that_do_not_fit(text, message, tmp_path):
    (tmp_path / "file").write_text(text)
    with pytest.raises(XViTError, match=message):
        list(read_csv(tmp_path / "file", ["name", "label"]))


def test_trailing_delimiters_are_no_values(tmp_path):
    (tmp_path / "file").write_text("name,label,\na,1,\nb,2,,\n")
    assert [row["label"] for _, row in read_csv(tmp_path / "file", ["name", "label"])] == ["1", "2"]


def test_split_fields():
    assert split_fields('"a, b" , c,', ",") == ["a, b", "c", ""]
    assert split_fields("a\rb;c", ";") == ["a b", "c"]


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkdir, "a folder, not a regular file"),
        (make_fifo, "a pipe, a device or a socket, not a regular file"),
        (make_socket, "a pipe, a device or a socket, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, a device or a socket, not a regular file"),
        (lambda path: path.symlink_to(path), "not readable"),
        (lambda path: None, "no such file"),
    ],
    ids=["folder", "pipe", "socket", "device", "loop", "missing"],
)
def test_only_regular_files_are_read(make, message, tmp_path):
    """A pipe would block for ever, and a device never end."""
    make(tmp_path / "file")
    with pytest.raises(XViTError, match=f"file: {message}"):
        read_text(tmp_path / "file")


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "file").write_bytes(b"a\n" * 2**19)
    assert len(numbered_lines("file", read_text(tmp_path / "file", max_bytes=2**20))) == 2**19
    (tmp_path / "file").write_bytes(b"a\n" * 2**19 + b"a")
    with pytest.raises(XViTError, match="file: larger than 1 MiB, the limit of a text file: split it"):
        read_text(tmp_path / "file", max_bytes=2**20)


@pytest.mark.parametrize("length", [2**16, 2**16 + 1])
def test_lines_are_bounded(length, tmp_path):
    line = "x" * length
    (tmp_path / "file").write_text(f"name,id\n\n{line},1\n")
    if length + 2 > 2**16:
        with pytest.raises(XViTError, match="file line 3: longer than 65536 characters: expected one entry per line"):
            list(read_csv(tmp_path / "file", ["name"]))
    if length > 2**16:
        with pytest.raises(XViTError, match="file line 2: longer than 65536 characters"):
            numbered_lines("file", f"a\n{line}\n")
    else:
        assert numbered_lines("file", f"a\n{line}\n") == {1: "a", 2: line}
