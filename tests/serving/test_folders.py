"""Private folders: who can enter them, and what becomes of those of a killed server."""

import signal
import stat
import subprocess
import sys
import tempfile

import pytest

from xvit.serving.folders import private_folder

CODE = """
import os, sys, tempfile
tempfile.tempdir = sys.argv[1]
from xvit.serving.folders import private_folder
with private_folder() as folder:
    (folder / "video").write_bytes(b"secret")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_only_its_owner_can_enter_it_and_it_is_removed(root):
    with private_folder() as folder:
        assert folder.parent == root
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "inner").mkdir()
    assert not folder.exists()


def test_folders_of_killed_servers_are_removed_by_the_next_one(root):
    command = [sys.executable, "-c", CODE, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        abandoned = process.stdout.readline().strip()
        with private_folder() as folder:
            assert {path.name for path in root.iterdir()} == {folder.name, abandoned.rpartition("/")[2]}
        process.send_signal(signal.SIGKILL)
    assert [str(path) for path in root.iterdir()] == [abandoned]
    with private_folder() as folder:
        assert list(root.iterdir()) == [folder]


def test_other_files_stay(root):
    (root / "xvit-serve-file").write_text("a file")
    (root / "xvit-serve-link").symlink_to(root)
    (root / "other").mkdir()
    with private_folder():
        pass
    assert {path.name for path in root.iterdir()} == {"xvit-serve-file", "xvit-serve-link", "other"}
