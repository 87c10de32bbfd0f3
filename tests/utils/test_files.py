"""Files and directories that appear only when they are complete."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.files import limited_file_size
from xvit.utils.errors import WriteError, XViTError
from xvit.utils.files import (
    atomic_directory,
    atomic_write_text,
    check_new_directory,
    holds_something,
    previous_version,
    read_json,
    write_json,
)

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT, errno.EFBIG]


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_write_leaves_the_old_one_and_nothing_else(kind, function, number, tmp_path, monkeypatch):
    path = tmp_path / "a"

    def write(text):
        if kind == "file":
            return atomic_write_text(path, text)
        with atomic_directory(path) as folder:
            (folder / "b").write_text(text)

    def content():
        assert list(tmp_path.iterdir()) == [path]
        return path.read_text() if kind == "file" else (path / "b").read_text()

    def fail(*args):
        raise OSError(number, os.strerror(number))

    if (kind, function) == ("file", "rename"):
        pytest.skip("files are replaced")
    write("old\n")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(WriteError, match=f"^{path}: cannot be written: {os.strerror(number)}$"):
        write("new\n")
    assert content() == "old\n"
    monkeypatch.undo()
    write("new\n")
    assert content() == "new\n"


def test_torch_and_safetensors_on_a_full_disk(tmp_path):
    tensors = {"a": torch.zeros(100_000)}
    for save in (save_file, torch.save):
        with (
            limited_file_size(10_000),
            pytest.raises(WriteError, match=f"^{tmp_path / 'a'}: cannot be written"),
            atomic_directory(tmp_path / "a") as folder,
        ):
            save(tensors, folder / "b")
    assert not list(tmp_path.iterdir())
    for error in (RuntimeError("no such layer"), BrokenPipeError()):  # nothing of the disk's
        with pytest.raises(type(error)), atomic_directory(tmp_path / "a"):
            raise error


def test_files_and_folders_are_flushed_before_they_get_their_name(tmp_path, monkeypatch):
    """A power failure must not leave an empty file under a final name."""
    calls = []

    def fsync(file):
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{file}")).name))

    def replace(source, target):
        calls.append(("replace", Path(source).name))
        os.rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic_write_text(tmp_path / "a", "text")
    assert calls == [("fsync", ".a"), ("replace", ".a"), ("fsync", tmp_path.name)]
    calls.clear()
    with atomic_directory(tmp_path / "b") as folder:
        (folder / "c").mkdir()
        (folder / "c" / "d").write_text("text")
    names = ["c", "d", ".b.writing"]
    assert calls == [*(("fsync", name) for name in names), ("replace", ".b.writing"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_the_modes(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "a") as folder:
            (folder / "b").mkdir()
            (folder / "b" / "c").touch(mode=0o600)
            save_file({"a": torch.zeros(1)}, folder / "d")
    finally:
        os.umask(before)
    for name in ("b/c", "d"):
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o666 & ~umask


def test_json_files(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(path) == {"a": [1, None]}
    with pytest.raises(XViTError, match=f"{path}: larger than 0 MiB"):
        read_json(path, max_bytes=9)
    path.write_text("{")
    os.mkfifo(tmp_path / "fifo")
    for name, reason in {
        "a.json": "not readable as JSON: ",
        "nowhere": "no such file",
        "fifo": "a pipe, a device or a socket, not a regular file",
    }.items():
        with pytest.raises(XViTError, match=f"{tmp_path / name}: {reason}"):
            read_json(tmp_path / name)


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


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), FileNotFoundError(2, "", "/other/a.mp4")]
)
def test_an_error_of_something_else_is_none_of_writing(error, tmp_path):
    """Such as that of a video, which is read while its features are written."""
    with pytest.raises(type(error)) as caught, atomic_directory(tmp_path / "new"):
        raise error
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_flush_is_used_as_it_is(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.EINVAL, "")

    monkeypatch.setattr(os, "fsync", fail)
    atomic_write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
