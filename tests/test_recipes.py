"""Every recipe in recipes/ is valid and can be trained."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.color_videos import write_videos
from xvit.config import InitConfig, RunConfig, from_dict, read_yaml
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.training import check_recipe, fit

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid(path):
    config = from_dict(RunConfig, read_yaml(path), path)
    check_recipe(config)
    assert config.clip.num_frames == config.model.num_frames


@pytest.fixture(scope="module")
def color_videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("colors"), train=1, val=1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(path, color_videos, tmp_path):
    """Train a small model for two steps on other data, with all other settings of the recipe."""
    config = from_dict(RunConfig, read_yaml(path), path)
    small = {"depth": 1, "embed_dim": 48, "num_heads": 4, "img_size": 32, "patch_size": 16}
    events = []
    result = fit(
        replace(
            config,
            model=replace(config.model, backbone_kwargs=config.model.backbone_kwargs | small),
            init=InitConfig(),
            clip=replace(config.clip, image_size=32),
            data=replace(config.data, root=str(color_videos), format="folders", num_workers=0),
            train=replace(config.train, epochs=1, batch_size=2, eval_every=1),
        ),
        tmp_path / "run",
        on_progress=events.append,
    )
    assert sum(event.stage == "train" for event in events) == 2
    assert math.isfinite(result.metrics["val_loss"])


def test_the_streaming_recipe_has_no_latency():
    path = Path(__file__).parents[1] / "recipes" / "motion-streaming.yaml"
    assert Stream(XViT(from_dict(RunConfig, read_yaml(path), path).model).eval()).latency_frames == 0
