"""Annotation files whose lines would take a time that grows faster than their length, if split carelessly.

There is no bound on the time: a line that takes quadratic time would take minutes here, one of cubic time years.
"""

import os
from contextlib import suppress
from functools import partial

import pytest

from xvit.data.annotations import read_class_names
from xvit.data.annotations.finder import VideoFinder
from xvit.data.annotations.formats import read_epic, read_kinetics, read_ssv2
from xvit.data.annotations.lists import read_list, read_multi_label_list, read_paths
from xvit.utils.errors import XViTError

LENGTH = 65_000
LONG_LINES = {
    "spaces": "a.mp4" + " " * LENGTH + "b",
    "spaces before a number": "a" + " " * LENGTH + "1",
    "spaces in quotes": '"a' + " " * LENGTH + 'b" 1',
    "tabs": "a" + "\t" * LENGTH + "b",
    "mixed white space": "a" + " \t" * (LENGTH // 2) + "b",
    "commas": "a" + "," * LENGTH + "b",
    "commas at the end": "a" + "," * LENGTH,
    "spaces and a comma": "a" + " " * LENGTH + ",b",
    "semicolons and spaces": "a" + "; " * (LENGTH // 2) + "b",
    "quotes": "a " + '"' * LENGTH,
    "quoted words": '"a" ' * (LENGTH // 4),
    "doubled quotes": 'a,"""' * (LENGTH // 5),
    "extensions": ".mp4 " * (LENGTH // 5),
    "numbers": "1 " * (LENGTH // 2),
    "digits": "1" * LENGTH,
    "digits and a letter": "a," + "1" * LENGTH + "b",
    "brackets": "[" * LENGTH,
    "slashes": "a" + "/" * LENGTH,
}
READERS = {
    "list": read_list,
    "multi-label list": read_multi_label_list,
    "paths": lambda path, videos: read_paths(path, [videos.root]),
    "kinetics": partial(read_kinetics, split="train"),
    "ssv2": read_ssv2,
    "epic": read_epic,
    "class names": lambda path, videos: read_class_names(path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", LONG_LINES)
def test_long_lines_take_linear_time(kind, reader, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"{LONG_LINES[kind]}\n" * 4)
    with suppress(XViTError):  # most of these lines are no annotations
        READERS[reader](path, VideoFinder(tmp_path))


@pytest.mark.parametrize("reader", READERS)
def test_a_line_without_an_end_and_a_pipe_are_refused(reader, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.mp4" + " " * 10**6 + "1")
    with pytest.raises(XViTError, match=r"line 1: longer than 65536 characters" if reader != "ssv2" else "JSON"):
        READERS[reader](path, VideoFinder(tmp_path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(XViTError, match="a pipe, a device or a socket, not a regular file"):
        READERS[reader](path, VideoFinder(tmp_path))


@pytest.mark.parametrize("ends", [[",", ","], [",,;", ",;"], [" , ;", ","]])
def test_delimiters_at_the_end_of_all_lines_are_no_part_of_the_names(ends, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{name}{end}\n" for name, end in zip(["walk", "run"], ends, strict=True)))
    assert [name.rstrip(" ,;") for name in read_class_names(path)] == ["walk", "run"]
    assert not all(name.endswith((",", ";")) for name in read_class_names(path))


def test_lines_of_delimiters_only_are_empty_names(tmp_path):
    (tmp_path / "names.txt").write_text(",\n,\n")
    with pytest.raises(XViTError, match="line 1 is empty: expected a class name"):
        read_class_names(tmp_path / "names.txt")
