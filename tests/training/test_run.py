"""Recipes whose settings do not go together, or do not match the data set."""

from dataclasses import replace

import pytest

from helpers.color_videos import CLIP, make_config
from xvit.config import InitConfig
from xvit.training import check_recipe, fit
from xvit.utils.errors import XViTError


def test_incompatible_settings_are_refused_before_data_is_read(tmp_path):
    config = make_config(tmp_path / "nowhere")
    with pytest.raises(XViTError, match=r"model\.num_frames=4 and clip\.num_frames=8: must be equal"):
        fit(replace(config, clip=replace(CLIP, num_frames=8)), tmp_path / "run")
    with pytest.raises(
        XViTError, match=r"clip\.image_size=20: backbone vit_tiny_patch16_224 does not accept frames of this size"
    ):
        fit(replace(config, clip=replace(CLIP, image_size=20)), tmp_path / "run")
    with pytest.raises(XViTError, match="no such folder"):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_recipe(replace(config, init=InitConfig(pretrained=True)))  # downloads nothing


def test_mismatched_data_is_refused_before_the_folder_is_created(videos, tmp_path):
    with pytest.raises(XViTError, match=r"model\.num_classes=5, but .* has 3 classes; leave it at 0"):
        fit(make_config(videos, model={"num_classes": 5}), tmp_path / "run")
    config = make_config(videos / "train")
    with pytest.raises(XViTError, match=r"no validation videos; set data\.val_fraction"):
        fit(replace(config, data=replace(config.data, val_fraction=0.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert fit(make_config(videos, model={"num_classes": 3}, epochs=1), tmp_path / "run").epoch == 1


def test_a_loss_weight_of_an_unknown_task_is_refused(videos, tmp_path):
    with pytest.raises(XViTError, match=r"train\.loss_weights: task='verb': expected one of label"):
        fit(make_config(videos, loss_weights={"verb": 2.0}), tmp_path)
