"""Fixtures for the tests of the commands."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.barcode_videos import truncate, write_audio, write_video


@pytest.fixture
def bad_videos(tmp_path) -> dict[str, Path]:
    """Paths that cannot be read as videos, by what is wrong with them."""
    folder = tmp_path / "bad"
    folder.mkdir()
    good = write_video(tmp_path / "good.mp4")
    (folder / "text.mp4").write_text("This is not a video.\n")
    (folder / "empty.mp4").touch()
    return {
        "text": folder / "text.mp4",
        "empty": folder / "empty.mp4",
        "audio": write_audio(folder / "audio.mp4"),
        "truncated": truncate(folder / "truncated.mp4", good, fraction=0.5),
        "missing": folder / "missing.mp4",
    }


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)
