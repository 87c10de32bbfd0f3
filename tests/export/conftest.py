"""Fixtures of the export tests: videos, and their clips."""

import pytest
import torch

from helpers.color_videos import CLIP, write_video
from xvit.data.annotations import find_videos
from xvit.data.transforms import normalize
from xvit.export.parity import read_clips


@pytest.fixture(scope="package")
def video_dir(tmp_path_factory) -> str:
    """A folder of six videos. Read-only."""
    folder = tmp_path_factory.mktemp("colours")
    for index in range(6):
        write_video(folder / f"{index}.mp4", color=index % 3, seed=index)
    return str(folder)


@pytest.fixture(scope="package")
def batch(video_dir) -> torch.Tensor:
    """The clips of all videos, normalised: (6, T, C, H, W)."""
    clips = read_clips(CLIP, find_videos([video_dir]), on_progress=lambda *_: None)
    return torch.cat([normalize(pixels, CLIP) for pixels in clips])
