"""Temporary files for videos: what is written can be decoded by path, and nothing is left."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from helpers.barcode_videos import write_video
from xvit.data import temporary
from xvit.data.decode import decode
from xvit.data.temporary import TemporaryVideo
from xvit.utils.errors import WriteError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary files go."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture(params=["in memory", "moved to disk", "no paths of open files"])
def place(request, folder, monkeypatch) -> str:
    if request.param == "moved to disk":
        monkeypatch.setattr(temporary, "MEMORY_BYTES", 1500)
    if request.param == "no paths of open files":
        monkeypatch.setattr(temporary, "_DESCRIPTORS", Path("/nonexistent"))
    return request.param


def test_what_is_written_can_be_decoded(place, folder, tmp_path):
    video = write_video(tmp_path / "a.mp4")
    data = video.read_bytes()
    assert len(data) > 1500
    with TemporaryVideo() as copy:
        copy.write(b"an attempt that failed")
        copy.clear()
        for start in range(0, len(data), 1000):
            copy.write(data[start : start + 1000])
        assert copy.size == len(data)
        assert Path(copy.path).read_bytes() == data
        np.testing.assert_array_equal(decode(copy.path, [3, 1]).frames, decode(video, [3, 1]).frames)
        assert copy.hide_path(f"ffmpeg -i {copy.path}") == "ffmpeg -i video"
        names = list(folder.rglob("video"))
        assert len(names) == (place == "no paths of open files")
        if names:
            assert os.stat(names[0].parent).st_mode & 0o077 == 0
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux has files without a name")
def test_a_killed_process_leaves_nothing(folder):
    code = (
        "import os, signal; from xvit.data import temporary; temporary.MEMORY_BYTES = 10; "
        "copy = temporary.TemporaryVideo(); copy.write(bytes(100)); assert os.path.getsize(copy.path) == 100; "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(folder)}, check=False)
    assert done.returncode == -9
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(folder, monkeypatch):
    monkeypatch.setattr(temporary, "MEMORY_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with TemporaryVideo() as copy, pytest.raises(WriteError, match=r"No space left on device; .* set TMPDIR"):
        copy.write(b"data")
