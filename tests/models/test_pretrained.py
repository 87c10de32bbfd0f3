"""Weights to start from: any image ViT's in any of the ways in, other XViTs', and the report of what became of them."""

import logging
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from helpers.backbones import FAMILIES
from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit import XViT, create_model
from xvit.utils.errors import XViTError

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
TINY = "vit_tiny_patch16_224"


def image_model(name, *, patches=2, **options):
    """A small timm model with a classifier and weights of no pattern, and its options; 2 x 2 patches."""
    with torch.device("meta"):
        patch = timm.create_model(name, depth=1).patch_embed.feat_ratio()
    kwargs = {**SMALL, "img_size": patches * patch, **options}
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model, kwargs


@torch.no_grad()
def frames_of(model, clip):
    """timm's own features of each frame, (B, T, D)."""
    return model.forward_head(model.forward_features(clip.flatten(0, 1)), pre_logits=True).unflatten(0, clip.shape[:2])


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_nothing_of_an_image_model_is_lost(name, tmp_path):
    """Saved by timm's users, loaded by checkpoint_path: its per-frame features; then a round trip through our files."""
    image, kwargs = image_model(name)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    size = kwargs["img_size"]
    clip = torch.randn(1, 3, 3, size, size)
    still = clip[:, :1].expand(-1, 3, -1, -1, -1)
    for scheme, seen in (("spatial", clip), ("mixing", still)):
        model = create_model(
            name,
            num_classes=4,
            num_frames=3,
            attention=scheme,
            temporal_padding="replicate",
            checkpoint_path=tmp_path / "image.safetensors",
            backbone_kwargs=kwargs,
        ).eval()
        with torch.no_grad():
            found = model.forward_features(seen).frames
        torch.testing.assert_close(found, frames_of(image, seen), atol=1e-5, rtol=1e-5)
        report = model.load_report
        assert not [key for key in report.new if key.startswith("backbone.")]
        assert {key.split(".")[0] for key in report.new} == {"temporal_position", "temporal_head", "classifier"}
        assert not report.resized
        assert all(key.startswith("backbone.head") for key in report.dropped)
    model.save_pretrained(tmp_path / "xvit")
    again = XViT.from_pretrained(tmp_path / "xvit")
    assert again.clip_spec == model.clip_spec
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_divided_attention_starts_as_the_image_model(tmp_path):
    image, kwargs = image_model(TINY)
    torch.save({"state_dict": image.state_dict(), "epoch": 3}, tmp_path / "image.pth")
    model = create_model(
        TINY, num_classes=0, attention="divided", checkpoint_path=tmp_path / "image.pth", backbone_kwargs=kwargs
    ).eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(clip).frames, frames_of(image, clip), atol=1e-5, rtol=1e-5)
    assert any(".attn.temporal" in key for key in model.load_report.new)


def test_a_built_model(caplog):
    """A model object is copied with its sizes; the report is logged."""
    image, _ = image_model("vit_small_patch14_reg4_dinov2", patches=3)
    with caplog.at_level(logging.INFO, logger="xvit"):
        model = create_model(image, num_classes=2, attention="spatial").eval()
    clip = torch.randn(1, 8, 3, 42, 42)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(clip).frames, frames_of(image, clip), atol=1e-5, rtol=1e-5)
    assert model.config.backbone == "vit_small_patch14_reg4_dinov2.lvd142m"
    assert model.clip_spec.image_size == 42
    assert "new temporal_position, temporal_head (14), classifier (2)" in caplog.text
    before = image.blocks[0].attn.qkv.weight.clone()
    with torch.no_grad():
        model.backbone.blocks[0].attn.qkv.weight.zero_()
    assert torch.equal(before, image.blocks[0].attn.qkv.weight)
    assert XViT(model.config).state_dict().keys() == model.state_dict().keys()  # the config alone builds it again


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: timm.create_model(TINY, depth=2, drop_path_rate=0.5),
            r"in blocks\): if it has drop rates",
        ),
        (lambda: changed(timm.create_model(TINY, depth=1)), "in norm"),
        (lambda: VisionTransformer(depth=1), "not built by timm.create_model: pass its name"),
        (lambda: timm.create_model("resnet18"), "a ResNet as backbone"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "a SwinTransformer as backbone"),
    ],
)
def test_models_that_cannot_be_read_off(build, said):
    with pytest.raises(XViTError, match=said):
        create_model(build(), num_classes=2)


def test_drop_rates_of_a_built_model_can_be_said():
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
def test_settings_that_neither_names_nor_shapes_of_tensors_tell(name, options):
    """timm remembers how it built a model: rebuilt without that, the features would be others."""
    image, kwargs = image_model(name, **options)
    model = create_model(image, num_classes=0, attention="spatial").eval()
    clip = torch.randn(1, 2, 3, kwargs["img_size"], kwargs["img_size"])
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(clip).frames, frames_of(image, clip), atol=1e-5, rtol=1e-5)
    assert all(model.config.backbone_kwargs[key] == value for key, value in options.items())


def test_the_data_config_of_a_built_model_is_kept():
    image = timm.create_model(TINY, depth=1, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3), "tag": "mine"})
    model = create_model(image, num_classes=2)
    assert model.clip_spec.mean == (0.1, 0.2, 0.3)
    assert model.config.backbone == TINY


def test_gray_pictures(tmp_path):
    image, kwargs = image_model(TINY)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    gray = {**kwargs, "in_chans": 1}
    model = create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "image.safetensors", backbone_kwargs=gray)
    expected = image.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.backbone.patch_embed.proj.weight, expected)


def test_what_of_the_image_model_starts_at_random_is_a_warning(tmp_path, caplog):
    image, kwargs = image_model(TINY)
    state = {name: tensor for name, tensor in image.state_dict().items() if name not in ("pos_embed", "norm.weight")}
    save_file(state, tmp_path / "image.safetensors")
    model = create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "image.safetensors", backbone_kwargs=kwargs)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "backbone.pos_embed, backbone.norm" in record.getMessage()
    assert {"backbone.pos_embed", "backbone.norm.weight"} <= set(model.load_report.new)


def test_positions_and_patches_are_resized(tmp_path):
    image, kwargs = image_model(TINY, patches=4)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    kwargs |= {"img_size": 96, "patch_size": 8}
    model = create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "image.safetensors", backbone_kwargs=kwargs)
    assert model.load_report.resized == {
        "backbone.patch_embed.proj.weight": ((48, 3, 16, 16), (48, 3, 8, 8)),
        "backbone.pos_embed": ((1, 17, 48), (1, 145, 48)),
    }
    assert "backbone.pos_embed (1, 17, 48) -> (1, 145, 48); new " in str(model.load_report)
    expected = timm.layers.resample_abs_pos_embed(image.pos_embed, new_size=[12, 12], num_prefix_tokens=1)
    assert torch.equal(model.backbone.pos_embed, expected)


def test_another_scheme_number_of_frames_size_and_classes(tmp_path):
    trained = with_metadata(make_model(3, attention="spatial"), list(CLASSES))
    with torch.no_grad():
        for tensor in trained.parameters():
            tensor.normal_()
    trained.save_pretrained(tmp_path / "run")
    small = trained.config.backbone_kwargs

    same = make_model(3, checkpoint_path=str(tmp_path / "run"))  # mixing
    assert same.config.attention == "mixing"
    assert not same.load_report.new
    assert not same.load_report.dropped
    assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in same.state_dict().items())

    other = make_model(
        5,
        attention="divided",
        checkpoint_path=str(tmp_path / "run"),
        num_frames=8,
        backbone_kwargs={**small, "img_size": 32},
    )
    report = other.load_report
    assert set(report.resized) == {"backbone.pos_embed", "temporal_position.weight"}
    assert {key for key in report.new if ".attn.temporal" not in key} == {
        "classifier.fc.label.weight",
        "classifier.fc.label.bias",
    }
    assert set(report.dropped) == {"classifier.fc.label.weight", "classifier.fc.label.bias"}
    assert other.temporal_position.weight.shape[1] == 8
    before, after = trained.temporal_position.weight[0], other.temporal_position.weight[0]
    torch.testing.assert_close(after[1], 0.75 * before[0] + 0.25 * before[1])  # frame 1 of 8 lies at 0.25 of 4


def test_what_does_not_fit_is_refused(tmp_path):
    image, kwargs = image_model(TINY)
    state = image.state_dict()
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "run")

    def start(path, **options):
        return create_model(
            TINY, num_classes=2, checkpoint_path=tmp_path / path, **{"backbone_kwargs": kwargs, **options}
        )

    save_file({k: v for k, v in state.items() if "blocks.1.mlp" not in k}, tmp_path / "part.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:3000])
    (tmp_path / "text.pth").write_text("hello")
    shutil.copytree(tmp_path / "run", tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").write_bytes(b"cut")
    save_file(
        {k: v.long() if k == "cls_token" else v for k, v in state.items()}, tmp_path / "whole numbers.safetensors"
    )
    torch.save([1, 2], tmp_path / "list.pth")
    for path, said, options in [
        ("part.safetensors", "4 tensors missing, first backbone.blocks.1.mlp.fc1.weight", {}),
        ("other.safetensors", "not weights of this backbone", {}),
        ("whole.safetensors", "of a wrong shape", {"backbone_kwargs": {**kwargs, "embed_dim": 96}}),
        ("cut.safetensors", "damaged", {}),
        ("text.pth", "holds more than tensors|damaged", {}),
        ("list.pth", "damaged|does not fit the backbone|not weights|holds more than tensors", {}),
        ("none.pth", "no such file or directory", {}),
        ("run", r"it has \[2\] heads in 2 layers, expected \[3\] in 2", {}),
        ("half", "damaged or truncated", {}),
        ("whole numbers.safetensors", "torch.int64, torch.strided: expected a dense float tensor", {}),
    ]:
        with pytest.raises(XViTError, match=said) as raised:
            start(path, **options)
        assert path in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(XViTError, match="choose one"):
        start("whole.safetensors", pretrained=True)
    with pytest.raises(XViTError, match="not together with a backbone that is already built"):
        create_model(image, num_classes=2, pretrained=True)


def changed(model):
    model.norm = torch.nn.Identity()
    return model


class Hostile:
    def __reduce__(self):
        return (print, ("run!",))


def test_a_payload_is_not_run(tmp_path, capfd):
    torch.save({"state_dict": {"cls_token": Hostile()}}, tmp_path / "hostile.pth")
    with pytest.raises(XViTError, match=r"hostile\.pth: holds more than tensors, so it was not loaded"):
        create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "hostile.pth")
    assert "run!" not in capfd.readouterr().out


def test_pretrained_weights_come_from_the_local_cache(tmp_path):
    """The layout of the Hub's cache, without a network: the weights, and mean and std of the backbone's data config."""
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    hub = timm.get_pretrained_cfg(name).hf_hub_id
    repository = tmp_path / f"models--{hub.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir()
    image, kwargs = image_model(name)
    save_file(image.state_dict(), snapshot / "model.safetensors")
    script = f"""
import xvit
model = xvit.create_model({name!r}, num_classes=2, pretrained=True, backbone_kwargs={kwargs!r})
print(model.load_report)
print(float(model.backbone.cls_token.detach().double().sum()))
try:
    xvit.create_model("vit_small_patch16_224", num_classes=2, pretrained=True, backbone_kwargs=dict(depth=1))
except xvit.utils.errors.XViTError as error:
    print(error)
"""
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    report, total, refused = done.stdout.splitlines()
    assert report.startswith(f"{hub} (Hugging Face Hub): ")
    assert "dropped backbone.head (2)" in report
    assert float(total) == pytest.approx(float(image.cls_token.detach().double().sum()))
    assert "from the Hugging Face Hub or its local cache" in refused
    assert "checkpoint_path" in refused


def test_mean_std_size_and_interpolation_are_the_backbones():
    clip = create_model("vit_base_patch16_clip_224.openai", num_classes=2, backbone_kwargs={"depth": 1}).clip_spec
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert clip.interpolation == "bicubic"
    assert clip.image_size == 224
    assert clip.open_fields == []
