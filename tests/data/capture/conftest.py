"""A video that can be read from any position."""

import pytest

from helpers.barcode_videos import write_video


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    """60 frames in an MPEG transport stream, which can be read without seeking."""
    path = tmp_path_factory.mktemp("transport") / "a.ts"
    return write_video(path, frames=60, kind="h264-mp4")
