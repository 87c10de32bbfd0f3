"""Checkpoints and recipes of format 1, whose settings had other names.

assets/format1 was written by the last version of format 1: two models with random weights, each with the logits of one
clip as that version computed them, and a recipe.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xvit import XViT
from xvit.checkpoint.legacy import upgrade_checkpoint
from xvit.config import RunConfig, as_task_dict, from_dict, read_yaml
from xvit.config.legacy import upgrade_recipe
from xvit.utils.errors import XViTError

ASSETS = Path(__file__).parents[1] / "assets" / "format1"


@pytest.mark.parametrize("name", ["single", "tasks"])
def test_converted_checkpoint_keeps_its_logits(name, tmp_path):
    with pytest.raises(XViTError, match=r"format 1, written by an earlier version.*xvit convert DIRECTORY --output"):
        XViT.from_pretrained(ASSETS / name)
    upgrade_checkpoint(ASSETS / name, tmp_path / "new")
    model = XViT.from_pretrained(tmp_path / "new")
    clip = torch.sin(0.37 * torch.arange(2 * 4 * 3 * 16 * 16, dtype=torch.float64)).float().reshape(2, 4, 3, 16, 16)
    expected = load_file(ASSETS / name / "expected.safetensors")
    with torch.no_grad():
        logits = as_task_dict(model(clip))
    for task, values in logits.items():
        torch.testing.assert_close(values, expected["logits" if name == "single" else f"logits.{task}"])
    old = json.loads((ASSETS / name / "config.json").read_text())
    assert (model.class_names, model.clip_spec.num_frames) == (old["labels"], old["clip"]["num_frames"])
    assert model.provenance["recipe"] == {
        "model": {"advanced": {"mix_inputs": "keys"}, "causal": True},
        "train": {"precision": "fp32"},
        "augment": {"mixup": 0.4},
    }


def test_invalid_source_or_output(tmp_path):
    upgrade_checkpoint(ASSETS / "single", tmp_path / "new")
    with pytest.raises(XViTError, match="format 2; only format 1 needs to be converted"):
        upgrade_checkpoint(tmp_path / "new", tmp_path / "other")
    with pytest.raises(XViTError, match="new: exists and is not an empty directory"):
        upgrade_checkpoint(ASSETS / "single", tmp_path / "new")
    with pytest.raises(XViTError, match=r"config.json: not the config of a checkpoint of format 1"):
        upgrade_checkpoint(tmp_path / "nowhere", tmp_path / "other")
    shutil.copytree(ASSETS / "single", tmp_path / "truncated")
    path = tmp_path / "truncated" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(XViTError, match="not readable as safetensors"):
        upgrade_checkpoint(tmp_path / "truncated", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_old_recipe_error_gives_the_new_name_and_conversion_works():
    path = ASSETS / "recipe.yaml"
    values = read_yaml(path)
    with pytest.raises(XViTError, match=r'"model.direction" is now model.causal. Convert.*xvit convert'):
        from_dict(RunConfig, values, path)
    config = from_dict(RunConfig, upgrade_recipe(values), path)
    assert config.model.causal
    assert config.model.advanced.spatial_position == "sincos"
    assert (config.data.num_workers, config.augment.horizontal_flip) == (2, 0.0)
    assert values == read_yaml(path), "upgrade_recipe does not modify its argument"
