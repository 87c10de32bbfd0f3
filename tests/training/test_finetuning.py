"""How fast what learns: rates by layer and by batch, gathered gradients, a frozen backbone; too many bad videos."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers.color_videos import CLASSES, make_model, recipe, write_videos
from helpers.training_runs import naive_rate, same, stop_at, weights
from xvit.config import TrainConfig
from xvit.models.xvit import XViT
from xvit.training import engine
from xvit.training.engine import fit
from xvit.training.optim import build_optimizer, build_schedule, scaled_lr
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("colours"))


def test_layers_learn_at_falling_rates():
    model = make_model(3, temporal_position="head")
    groups = build_optimizer(model, TrainConfig(lr=0.1, layer_decay=0.5)).param_groups
    found = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.blocks."):
            expected = {"0": 0.25, "1": 0.5}[name.split(".")[2]]
        elif name.startswith(("backbone.patch_embed", "backbone.cls_token", "backbone.pos_embed")):
            expected = 0.125
        else:
            expected = 1.0
        assert found[id(parameter)] == expected, name
    optimizer = build_optimizer(model, TrainConfig(lr=0.1, layer_decay=0.5))
    schedule = build_schedule(optimizer, steps=10, warmup_steps=4, lr=0.1)
    for step in range(10):
        schedule.step_update(step)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(naive_rate(step, 10, 4, 0.1) * group["lr_scale"])


def test_the_rate_is_scaled_to_the_clips_of_an_update(monkeypatch):
    assert scaled_lr(TrainConfig(lr=0.03, batch_size=16)) == 0.03
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert scaled_lr(TrainConfig(lr=0.03, lr_base_batch_size=128, batch_size=16, grad_accum_steps=2)) == pytest.approx(
        0.015
    )
    monkeypatch.delenv("WORLD_SIZE")
    optimizer = build_optimizer(make_model(), TrainConfig(lr=0.03, lr_base_batch_size=128, batch_size=64))
    assert {group["lr"] for group in optimizer.param_groups} == {0.015}


def test_gathered_gradients_are_those_of_one_large_batch(videos, tmp_path, monkeypatch):
    """12 videos: three batches of 4 an update, against one of 12; the mean over all clips, clipped once."""
    settings = {"optimizer": "sgd", "lr": 0.05, "epochs": 3, "clip_grad": 0.5}
    with monkeypatch.context() as patch:  # a constant rate: else an update has that of its last batch
        patch.setattr(engine, "build_schedule", lambda *_, **__: SimpleNamespace(step_update=lambda step: None))
        one = fit(recipe(videos, batch_size=12, **settings), tmp_path / "one")
        three = fit(recipe(videos, batch_size=4, grad_accum_steps=3, **settings), tmp_path / "three")
    for name, value in weights(one.last).items():
        torch.testing.assert_close(weights(three.last)[name], value, rtol=1e-4, atol=1e-6)


def test_what_is_gathered_is_not_lost_by_a_stop(videos, tmp_path):
    settings = {"optimizer": "sgd", "lr": 0.05, "epochs": 3}
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fit(recipe(videos, grad_accum_steps=2, save_minutes=0.0, **settings), stopped, on_progress=stop_at(2, 2))
    states = sorted(path.name for path in (stopped / "state").iterdir())
    assert states[-1] in ("step_0000003", "step_0000005")  # after updates only: of 3 batches an epoch the 2nd and 3rd
    whole = fit(recipe(videos, grad_accum_steps=2, **settings), tmp_path / "whole")
    resumed = fit(recipe(videos, grad_accum_steps=2, save_minutes=0.0, **settings), stopped, resume=True)
    assert same(weights(whole.last), weights(resumed.last))


def test_a_frozen_backbone_stays(videos, tmp_path):
    config = recipe(videos, freeze_backbone=True)
    result = fit(config, tmp_path / "run")
    torch.manual_seed(config.train.seed)
    start, found = XViT(XViT.from_pretrained(result.last).config).state_dict(), weights(result.last)
    assert all(torch.equal(found[name], start[name]) for name in found if name.startswith("backbone."))
    assert not torch.equal(found["classifier.fc.weight"], start["classifier.fc.weight"])


def test_more_unreadable_videos_than_tolerated_stop_the_training(tmp_path):
    root = write_videos(tmp_path / "videos")
    for name in CLASSES[:2]:
        (root / "train" / name / "0.mp4").write_text("no video")
    config = recipe(root)
    config = replace(config, data=replace(config.data, max_unreadable_fraction=0.1))
    with pytest.raises(XViTError, match=r"2 of 12 training videos could not be read, more than .*=0.1; .*bad_videos"):
        fit(config, tmp_path / "run")
    assert (tmp_path / "run" / "bad_videos.jsonl").read_text().count("\n") == 2
    assert (
        fit(replace(config, data=replace(config.data, max_unreadable_fraction=0.17)), tmp_path / "other").bad_videos
        == 2
    )
