"""Parameter groups, learning rates and their schedule."""

import pytest
from torch import nn

from helpers.color_videos import make_model
from helpers.training_runs import naive_rate
from xvit.config import TrainConfig
from xvit.models.factory import create_model
from xvit.training.optim import build_optimizer, build_schedule, parameter_groups, scaled_lr

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("vit_tiny_patch16_224", {"attention": "mixing", "summary_tokens": 1}),
        ("vit_tiny_patch16_224", {"attention": "divided", "temporal_position": "head"}),
        ("deit3_small_patch16_224", {"attention": "joint", "temporal_head": "mean"}),
        ("vit_base_patch14_reg4_dinov2", {"num_classes": {"verb": 2, "noun": 3}}),
        ("vit_base_patch16_clip_224", {"temporal_layers": 2}),
        ("vit_base_patch16_siglip_224", {}),
    ],
)
def test_every_parameter_is_in_one_group(backbone, options):
    options = {"num_classes": 3, **options}
    model = create_model(backbone, num_frames=4, backbone_kwargs=SMALL | {"img_size": 28 * 2}, **options)
    decayed, rest = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    ids = [id(parameter) for group in (decayed, rest) for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    expected = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if type(module) in (nn.Linear, nn.Conv2d) and name == "weight":
                expected.add(id(parameter))
            elif isinstance(module, nn.Linear | nn.Conv2d):
                assert name == "bias"
    assert {id(parameter) for parameter in decayed["params"]} == expected
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in rest["params"]:
        suffixes = ("cls_token", "pos_embed", "reg_token", "latent", "temporal_position.weight", "position.weight")
        assert parameter.ndim == 1 or names[id(parameter)].endswith(suffixes), names[id(parameter)]


def test_frozen_parameters_are_in_no_group():
    model = make_model()
    model.backbone.requires_grad_(False)
    decayed, rest = parameter_groups(model, 0.1)
    assert len(decayed["params"]) + len(rest["params"]) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (50, 0), (7, 6), (5, 9), (1, 0)])
def test_learning_rate_warms_up_and_follows_a_cosine(steps, warmup):
    optimizer = build_optimizer(make_model(), TrainConfig(lr=0.5))
    schedule = build_schedule(optimizer, steps=steps, warmup_steps=warmup, lr=0.5)
    for step in [*range(steps), 0]:  # depends on the step alone, so going back gives the same rate
        schedule.step_update(step)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(naive_rate(step, steps, min(warmup, steps), 0.5), rel=1e-12)


def test_layer_decay():
    model = make_model(3, temporal_position="head")
    groups = build_optimizer(model, TrainConfig(lr=0.1, layer_decay=0.5)).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.blocks."):
            expected = {"0": 0.25, "1": 0.5}[name.split(".")[2]]
        elif name.startswith(("backbone.patch_embed", "backbone.cls_token", "backbone.pos_embed")):
            expected = 0.125
        else:
            expected = 1.0
        assert scales[id(parameter)] == expected, name
    optimizer = build_optimizer(model, TrainConfig(lr=0.1, layer_decay=0.5))
    schedule = build_schedule(optimizer, steps=10, warmup_steps=4, lr=0.1)
    for step in range(10):
        schedule.step_update(step)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(naive_rate(step, 10, 4, 0.1) * group["lr_scale"])


def test_learning_rate_is_scaled_to_the_clips_per_update(monkeypatch):
    assert scaled_lr(TrainConfig(lr=0.03, batch_size=16)) == 0.03
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert scaled_lr(TrainConfig(lr=0.03, lr_base_batch_size=128, batch_size=16, grad_accum_steps=2)) == pytest.approx(
        0.015
    )
    monkeypatch.delenv("WORLD_SIZE")
    optimizer = build_optimizer(make_model(), TrainConfig(lr=0.03, lr_base_batch_size=128, batch_size=64))
    assert {group["lr"] for group in optimizer.param_groups} == {0.015}
