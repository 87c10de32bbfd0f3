"""Every recipe that is shipped can be trained: its settings are known, and go together."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.color_videos import write_videos
from xvit.config import RunConfig, from_dict, read_yaml
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.training.engine import check_recipe, fit

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    config = from_dict(RunConfig, read_yaml(path), path)
    check_recipe(config)
    assert config.clip.num_frames == config.model.num_frames


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("colours"), train=1, val=1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains(path, colours, tmp_path):
    """Two steps of a small model, on other data, with all else as the recipe says."""
    config = from_dict(RunConfig, read_yaml(path), path)
    small = {"depth": 1, "embed_dim": 48, "num_heads": 4, "img_size": 32, "patch_size": 16}
    model = replace(config.model, pretrained=False, backbone_kwargs=config.model.backbone_kwargs | small)
    steps = []
    result = fit(
        replace(
            config,
            model=model,
            clip=replace(config.clip, image_size=32),
            data=replace(config.data, root=str(colours), format="folders", num_workers=0),
            train=replace(config.train, epochs=1, batch_size=2, eval_every=1),
        ),
        tmp_path / "run",
        on_progress=steps.append,
    )
    assert sum(told.stage == "train" for told in steps) == 2
    assert math.isfinite(result.metrics["val_loss"])


def test_the_streaming_recipe_streams():
    path = Path(__file__).parents[1] / "recipes" / "motion-streaming.yaml"
    assert Stream(XViT(from_dict(RunConfig, read_yaml(path), path).model).eval()).latency_frames == 0
