"""Servers that the tests share, and videos for them."""

from pathlib import Path

import pytest

from helpers.serving import RunningServer, serve
from xvit import Predictor


@pytest.fixture(scope="session")
def server() -> RunningServer:
    """The bundled model with the usual limits, and a second one that cannot be streamed exactly."""
    with serve(["motion"]) as running:
        yield running


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return Predictor("motion", device="cpu")


@pytest.fixture(scope="session")
def video(videos) -> Path:
    """A video of the class moving_left."""
    return videos / "val" / "moving_left" / "0000.mp4"


@pytest.fixture(scope="session")
def long_video(tmp_path_factory) -> Path:
    """A minute of changing classes."""
    from xvit.data.synthetic.concatenated import write_concatenated_videos

    folder = tmp_path_factory.mktemp("long") / "videos"
    write_concatenated_videos(folder, num_videos=1, clips_per_video=10, seed=3)
    return folder / "0000.mp4"
