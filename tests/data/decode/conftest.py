"""Test videos of every format, written once per module."""

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.barcode_videos import FORMATS, write_video

FRAMES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder for the videos of a module."""
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def make_video(folder) -> Callable[..., Path]:
    """Return the path of a video of 60 barcode frames in the given format."""

    def make_video(kind: str = "h264-mp4") -> Path:
        path = folder / (kind + FORMATS[kind].suffix)
        return path if path.exists() else write_video(path, frames=FRAMES, kind=kind)

    return make_video
