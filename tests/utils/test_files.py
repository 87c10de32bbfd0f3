"""Files and directories that appear only when they are complete."""

from contextlib import suppress
from pathlib import Path

import pytest

from xvit.utils.errors import XViTError
from xvit.utils.files import (
    atomic_directory,
    atomic_write_text,
    check_new_directory,
    holds_something,
    previous_version,
    read_json,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_write_text(path, "old\n")

    def fail(self, target):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            atomic_write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
    atomic_write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_json_files(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(path) == {"a": [1, None]}
    path.write_text("{")
    for damaged in (path, tmp_path / "nowhere"):
        with pytest.raises(XViTError, match=f"{damaged}: not readable as JSON: "):
            read_json(damaged)


def test_a_directory_is_replaced_completely_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "out"
    with atomic_directory(target) as directory:
        (directory / "a").write_text("1")
        assert not target.exists()
    with suppress(KeyboardInterrupt), atomic_directory(target) as directory:
        (directory / "b").write_text("2")
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["a"]
    target.rename(previous_version(target))  # as if a process had been killed between the two renames
    with atomic_directory(target) as directory:
        (directory / "c").write_text("3")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert list(target.parent.iterdir()) == [target]


def test_a_directory_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert check_new_directory(tmp_path / "empty") == tmp_path / "empty"
    assert not holds_something(tmp_path / "nowhere")
    states = {tmp_path: "exists and is not an empty directory", tmp_path / "file": "exists"}
    for used, state in states.items():
        with pytest.raises(XViTError, match=f"{used}: {state}; choose another --output"):
            check_new_directory(used)
