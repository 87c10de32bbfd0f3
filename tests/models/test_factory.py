"""`create_model` with options and with backbones built by timm."""

import logging

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from helpers.backbones import frame_features, image_model
from helpers.tiny import tiny_model
from xvit import XViT, create_model
from xvit.utils.errors import XViTError

TINY = "vit_tiny_patch16_224"


def test_built_backbone(caplog):
    """The weights and sizes of a model built by timm are copied, and the load report is logged."""
    image, _ = image_model("vit_small_patch14_reg4_dinov2", patches=3)
    with caplog.at_level(logging.INFO, logger="xvit"):
        model = create_model(image, num_classes=2, attention="spatial").eval()
    clip = torch.randn(1, 8, 3, 42, 42)
    with torch.no_grad():
        frames = model.forward_features(clip).frames
    torch.testing.assert_close(frames, frame_features(image, clip), atol=1e-5, rtol=1e-5)
    assert model.config.backbone == "vit_small_patch14_reg4_dinov2.lvd142m"
    assert model.clip_spec.image_size == 42
    assert "new temporal_position, temporal_head (14), classifier (2)" in caplog.text
    before = image.blocks[0].attn.qkv.weight.clone()
    with torch.no_grad():
        model.backbone.blocks[0].attn.qkv.weight.zero_()
    assert torch.equal(before, image.blocks[0].attn.qkv.weight)
    assert XViT(model.config).state_dict().keys() == model.state_dict().keys()  # the config alone rebuilds the model


def with_modified_norm(model):
    model.norm = torch.nn.Identity()
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: timm.create_model(TINY, depth=2, drop_path_rate=0.5),
            r"in blocks\): if it has drop rates",
        ),
        (lambda: with_modified_norm(timm.create_model(TINY, depth=1)), "in norm"),
        (lambda: VisionTransformer(depth=1), "not built by timm.create_model: pass its name"),
        (lambda: timm.create_model("resnet18"), "a ResNet as backbone"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "a SwinTransformer as backbone"),
    ],
)
def test_built_backbones_that_cannot_be_rebuilt(build, message):
    with pytest.raises(XViTError, match=message):
        create_model(build(), num_classes=2)


def test_drop_rates_of_a_built_backbone_are_given_as_options():
    image = timm.create_model(TINY, depth=2, embed_dim=48, num_heads=4, act_layer="relu", drop_path_rate=0.5)
    model = create_model(image, num_classes=2, backbone_kwargs={"drop_path_rate": 0.5})
    options = {"act_layer": "relu", "depth": 2, "embed_dim": 48, "num_heads": 4, "drop_path_rate": 0.5}
    assert model.config.backbone_kwargs.items() >= options.items()
    assert set(model.load_report.dropped) == {"backbone.head.weight", "backbone.head.bias"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_small_patch16_dinov3", {"rope_temperature": 3.0}),
        ("vit_small_patch16_dinov3", {"rope_rotate_half": False}),
        ("eva02_tiny_patch14_224", {"ref_feat_shape": 5}),
        (TINY, {"pool_include_prefix": True, "global_pool": "avg"}),
    ],
)
def test_built_backbone_keeps_settings_that_its_tensors_do_not_show(name, options):
    """Without these settings, the rebuilt model would have other features."""
    image, kwargs = image_model(name, **options)
    model = create_model(image, num_classes=0, attention="spatial").eval()
    clip = torch.randn(1, 2, 3, kwargs["img_size"], kwargs["img_size"])
    with torch.no_grad():
        frames = model.forward_features(clip).frames
    torch.testing.assert_close(frames, frame_features(image, clip), atol=1e-5, rtol=1e-5)
    assert all(model.config.backbone_kwargs[key] == value for key, value in options.items())


def test_built_backbone_keeps_its_data_config():
    image = timm.create_model(TINY, depth=1, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "tag": "mine"})
    model = create_model(image, num_classes=2)
    assert model.clip_spec.mean == (0.1, 0.2, 0.3)
    assert model.config.backbone == TINY


def test_built_backbone_excludes_other_weights():
    image, _ = image_model(TINY)
    with pytest.raises(XViTError, match="not together with a backbone that is already built"):
        create_model(image, num_classes=2, pretrained=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "mixng"}, 'Did you mean "mixing"'),
        ({"windw": 1}, 'Did you mean "window"'),
        ({"mixing_layers": (3,)}, "the backbone has layers 0 to 2, not 3"),
        ({"mixing_layers": "last"}, "expected one of all, first_half"),
        ({"mix_ratio": 1.5}, "between 0 and 1"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"window": "3"}, "window='3': expected a number"),
        ({"spatial_position": "sincos", "pretrained": True}, "have positions already"),
        ({"summary_tokens": 3}, "expected a square number"),
        ({"summary_tokens": 1, "attention": "joint"}, "attend to other frames' tokens already"),
        ({"temporal_position": "head", "temporal_head": "mean"}, "needs temporal_head='attention'"),
        ({"backbone_kwargs": {"dpth": 2}}, 'Did you mean "depth"'),
        ({"backbone_kwargs": {"patch_drop_rate": 0.5}}, "mixing needs the same patches in every frame"),
        ({"backbone_kwargs": {"attn_layer": "diff"}}, "not allowed: use attention="),
        ({"backbone_kwargs": {"embed_dim": 25, "num_heads": 3}}, "divisible"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(XViTError, match=message):
        tiny_model(**options)
