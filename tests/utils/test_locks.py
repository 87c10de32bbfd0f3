"""One process at a time in a folder."""

import errno
import fcntl
import json
import os
import signal
import socket

import pytest

from helpers.files import limited_file_size, locked_by_another_process
from xvit.utils.errors import WriteError, XViTError
from xvit.utils.files import holds_something
from xvit.utils.locks import lock_directory


@pytest.fixture(params=["new", "existing", "file", "link", "deep"])
def place(request, tmp_path):
    """A folder or file that a command writes."""
    path = tmp_path / "out"
    if request.param == "existing":
        path.mkdir()
        (path / "a").touch()
    elif request.param == "file":
        path.touch()
    elif request.param == "link":
        (tmp_path / "target").mkdir()
        path.symlink_to("target")
    return path / "a" / "b" if request.param == "deep" else path


def test_another_process_is_named_and_excluded_until_it_ends(place, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with locked_by_another_process(place, "xvit train") as process:
        owner = rf"xvit train \(process {process.pid} on host {socket.gethostname()}\)"
        for _ in range(2):
            message = rf"^{place}: in use by {owner}; wait until it ends, or choose another --output$"
            with pytest.raises(XViTError, match=message), lock_directory(place, "xvit eval"):
                pytest.fail("locked twice")
        with lock_directory(tmp_path / "other", "xvit eval"):
            pass
    with lock_directory(place, "xvit eval"):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_is_the_folder_that_it_points_to(tmp_path):
    (tmp_path / "link").symlink_to("folder")
    with locked_by_another_process(tmp_path / "folder", "xvit train"):
        for other in (tmp_path / "link", tmp_path / "x" / ".." / "folder"):
            with pytest.raises(XViTError, match="in use by"), lock_directory(other, "xvit train"):
                pass


def test_a_process_that_was_killed_is_no_obstacle(place, tmp_path):
    with locked_by_another_process(place, "xvit train") as process:
        process.send_signal(signal.SIGKILL)
    left = [path for path in tmp_path.rglob(".*") if path.name.endswith(".lock")]
    assert json.loads(left[0].read_text())["pid"] == process.pid
    with lock_directory(place, "xvit train"):
        assert json.loads(left[0].read_text()) == {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": "xvit train",
        }
    assert not left[0].exists()


def test_the_same_process_cannot_lock_twice(tmp_path):
    with lock_directory(tmp_path / "a", "xvit train"):
        with pytest.raises(XViTError, match="in use by this process"), lock_directory(tmp_path / "a", "xvit train"):
            pass
        with locked_by_another_process(tmp_path / "b", "xvit train"):
            pass
        with pytest.raises(XViTError, match="in use by this process"), lock_directory(tmp_path / "a", "xvit train"):
            pass
    with pytest.raises(ZeroDivisionError), lock_directory(tmp_path / "a", "xvit train"):
        raise ZeroDivisionError
    with lock_directory(tmp_path / "a", "xvit train"):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"pid": 3', b'{"pid": 3}'])
def test_an_owner_that_is_not_known(content, tmp_path):
    with locked_by_another_process(tmp_path / "a", "xvit train"):
        (tmp_path / ".a.lock").write_bytes(content)
        with pytest.raises(XViTError, match="a: in use by another process; wait"), lock_directory(tmp_path / "a", "x"):
            pass


def test_a_lock_that_its_owner_deletes_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """Otherwise this process would hold the lock of a file that nobody finds, and a third one a new file's."""
    lockf, calls = fcntl.lockf, []

    def lock_late(file, operation):
        if not calls:
            (tmp_path / ".a.lock").unlink()
        calls.append(file)
        lockf(file, operation)

    monkeypatch.setattr(fcntl, "lockf", lock_late)
    with lock_directory(tmp_path / "a", "xvit train"):
        assert len(calls) == 2
        assert os.path.samestat(os.fstat(calls[1].fileno()), (tmp_path / ".a.lock").stat())
        with pytest.raises(ValueError, match="closed file"):
            calls[0].fileno()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said(number, tmp_path, monkeypatch, caplog):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with lock_directory(tmp_path / "a", "xvit train"):
        pass
    assert f"cannot be locked on this file system ({os.strerror(number)})" in caplog.text


def test_inside_a_mount_point_or_a_folder_beside_which_nothing_can_be_created(tmp_path, monkeypatch):
    """Two containers that mount one folder see the same lock."""
    folder = tmp_path / "a"
    folder.mkdir()
    for target, name, value in ((type(folder), "is_mount", lambda _: True), (os, "access", lambda *_: False)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            with lock_directory(folder, "xvit train"):
                assert [path.name for path in folder.iterdir()] == [".lock"]
                assert not holds_something(folder)
        assert not list(folder.iterdir())


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    place, message = tmp_path / "file" / "a", r"file/a: cannot be written: "
    with pytest.raises(WriteError, match=message), lock_directory(place, "xvit train"):
        pass


def test_a_full_disk_leaves_no_lock(tmp_path):
    with limited_file_size(0), pytest.raises(WriteError), lock_directory(tmp_path / "a", "xvit train"):
        pass
    assert not list(tmp_path.iterdir())
