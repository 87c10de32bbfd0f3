"""Fixtures of the transformers tests: a model, its checkpoint, clips and a video."""

import pytest
import torch
from torch import nn

from helpers.color_videos import CLASSES, FRAMES, SIZE, make_model, with_metadata, write_video

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def _no_progress_bars():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def model():
    """An XViT in which all tensors are random, so that swapped tensors are noticed."""
    model = with_metadata(make_model(), list(CLASSES))
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.provenance = {"data": "colours"}
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """A checkpoint written by XViT.save_pretrained. Read-only."""
    path = tmp_path_factory.mktemp("xvit") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clips():
    return torch.randn(2, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", color=1, seed=4)
