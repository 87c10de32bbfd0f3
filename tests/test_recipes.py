"""Every recipe that is shipped can be trained: its settings are known, and go together."""

from pathlib import Path

import pytest

from xvit.config import RunConfig, from_dict, read_yaml
from xvit.models.xvit import XViT
from xvit.training.engine import check_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    config = from_dict(RunConfig, read_yaml(path), path)
    check_recipe(config)
    assert config.clip.num_frames == config.model.num_frames


def test_the_streaming_recipe_streams():
    path = Path(__file__).parents[1] / "recipes" / "motion-streaming.yaml"
    assert XViT(from_dict(RunConfig, read_yaml(path), path).model).eval().stream().latency_frames == 0
