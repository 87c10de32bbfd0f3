"""Initial weights from files of image models, from other XViTs and from the Hub, and the report on them."""

import logging
import shutil

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from helpers.backbones import FAMILIES, frame_features, image_model
from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit import XViT, create_model
from xvit.config import InitConfig
from xvit.models.pretrained import load_initial_weights
from xvit.utils.errors import XViTError

TINY = "vit_tiny_patch16_224"


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_image_weights_are_loaded_and_saved_completely(name, tmp_path):
    """A model with weights saved from timm has timm's features of each frame, and survives saving and loading."""
    image, kwargs = image_model(name)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    size = kwargs["img_size"]
    clip = torch.randn(1, 3, 3, size, size)
    still = clip[:, :1].expand(-1, 3, -1, -1, -1)
    for attention, video in (("spatial", clip), ("mixing", still)):
        model = create_model(
            name,
            num_classes=4,
            num_frames=3,
            attention=attention,
            temporal_padding="replicate",
            checkpoint_path=tmp_path / "image.safetensors",
            backbone_kwargs=kwargs,
        ).eval()
        with torch.no_grad():
            frames = model.forward_features(video).frames
        torch.testing.assert_close(frames, frame_features(image, video), atol=1e-5, rtol=1e-5)
        report = model.load_report
        assert not [key for key in report.new if key.startswith("backbone.")]
        assert {key.split(".")[0] for key in report.new} == {"temporal_position", "temporal_head", "classifier"}
        assert not report.resized
        assert all(key.startswith("backbone.head") for key in report.dropped)
    model.save_pretrained(tmp_path / "xvit")
    loaded = XViT.from_pretrained(tmp_path / "xvit")
    assert loaded.clip_spec == model.clip_spec
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_divided_attention_is_initially_the_image_model(tmp_path):
    image, kwargs = image_model(TINY)
    torch.save({"state_dict": image.state_dict(), "epoch": 3}, tmp_path / "image.pth")
    model = create_model(
        TINY, num_classes=0, attention="divided", checkpoint_path=tmp_path / "image.pth", backbone_kwargs=kwargs
    ).eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(clip).frames, frame_features(image, clip), atol=1e-5, rtol=1e-5)
    assert any(".attn.temporal" in key for key in model.load_report.new)


def test_single_channel_images(tmp_path):
    image, kwargs = image_model(TINY)
    save_file(image.state_dict(), tmp_path / "image.safetensors")
    gray = {**kwargs, "in_chans": 1}
    model = create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "image.safetensors", backbone_kwargs=gray)
    expected = image.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.backbone.patch_embed.proj.weight, expected)


def test_missing_image_weights_are_logged_as_a_warning(tmp_path, caplog):
    image, kwargs = image_model(TINY)
    state = {name: tensor for name, tensor in image.state_dict().items() if name not in ("pos_embed", "norm.weight")}
    save_file(state, tmp_path / "image.safetensors")
    model = create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "image.safetensors", backbone_kwargs=kwargs)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "backbone.pos_embed, backbone.norm" in record.getMessage()
    assert {"backbone.pos_embed", "backbone.norm.weight"} <= set(model.load_report.new)


def test_position_and_patch_embeddings_are_resized(tmp_path):
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


def test_weights_of_a_model_with_other_settings(tmp_path):
    trained = with_metadata(make_model(3, attention="spatial"), list(CLASSES))
    with torch.no_grad():
        for tensor in trained.parameters():
            tensor.normal_()
    trained.save_pretrained(tmp_path / "run")
    backbone_kwargs = trained.config.backbone_kwargs

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
        backbone_kwargs={**backbone_kwargs, "img_size": 32},
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


@pytest.mark.parametrize(("trained", "given", "loaded"), [
    (["a", "b", "c"], ["a", "b", "c"], ["label"]),
    (["a", "b", "c"], ["b", "a", "c"], []),
    (["a", "b", "c"], ["a", "b", "d"], []),
    (["a", "b", "c"], ["a", "b", "c", "d"], []),
    (["a", "b", "c"], None, ["label"]),
    ({"verb": ["put", "cut"], "noun": ["cup"]}, {"verb": ["put", "cut"], "noun": ["can"]}, ["verb"]),
    (["a", "b"], {"verb": ["a", "b"], "noun": ["cup"]}, []),
])  # fmt: skip
def test_the_classifier_is_new_where_the_class_names_differ(trained, given, loaded, tmp_path):
    def count(names):
        return {task: len(task_names) for task, task_names in names.items()} if isinstance(names, dict) else len(names)

    source = with_metadata(make_model(count(trained)), trained)
    with torch.no_grad():
        for tensor in source.classifier.parameters():
            tensor.normal_()
    source.save_pretrained(tmp_path / "trained")
    model = make_model(count(given or trained))
    before = {name: tensor.clone() for name, tensor in model.classifier.fc.state_dict().items()}
    load_initial_weights(model, InitConfig(checkpoint_path=str(tmp_path / "trained")), given)
    for name, tensor in model.classifier.fc.state_dict().items():
        expected = source.classifier.fc.state_dict() if name.split(".")[0] in loaded else before
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(model.backbone.cls_token, source.backbone.cls_token)


def test_invalid_weights(tmp_path):
    image, kwargs = image_model(TINY)
    state = image.state_dict()
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "run")

    def create(path, **options):
        return create_model(
            TINY, num_classes=2, checkpoint_path=tmp_path / path, **{"backbone_kwargs": kwargs, **options}
        )

    save_file({k: v for k, v in state.items() if "blocks.1.mlp" not in k}, tmp_path / "incomplete.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file(state, tmp_path / "complete.safetensors")
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "complete.safetensors").read_bytes()[:3000])
    (tmp_path / "text.pth").write_text("hello")
    shutil.copytree(tmp_path / "run", tmp_path / "damaged_run")
    (tmp_path / "damaged_run" / "model.safetensors").write_bytes(b"truncated")
    save_file({k: v.long() if k == "cls_token" else v for k, v in state.items()}, tmp_path / "integers.safetensors")
    scaled = {f"blocks.{block}.ls{half}.gamma": torch.ones(48) for block in (0, 1) for half in (1, 2)}
    save_file(state | scaled, tmp_path / "scaled.safetensors")  # as DINOv2's
    torch.save([1, 2], tmp_path / "list.pth")
    for path, message, options in [
        ("incomplete.safetensors", "4 tensors missing, first backbone.blocks.1.mlp.fc1.weight", {}),
        ("other.safetensors", "not weights of this backbone", {}),
        ("complete.safetensors", "of a wrong shape", {"backbone_kwargs": {**kwargs, "embed_dim": 96}}),
        ("scaled.safetensors", "blocks lack 4 of the tensors, first backbone.blocks.0.ls1.gamma: name the image", {}),
        ("truncated.safetensors", "damaged", {}),
        ("text.pth", "holds more than tensors|damaged", {}),
        ("list.pth", "damaged|does not fit the backbone|not weights|holds more than tensors", {}),
        ("none.pth", "no such file or directory", {}),
        ("run", r"it has \[2\] heads in 2 layers, expected \[3\] in 2", {}),
        ("damaged_run", "damaged or truncated", {}),
        ("run/model.safetensors", "a trained XViT: give its checkpoint directory, .*run$", {}),
        ("integers.safetensors", "torch.int64, torch.strided: expected a dense float tensor", {}),
    ]:
        with pytest.raises(XViTError, match=message) as caught:
            create(path, **options)
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(XViTError, match="choose one"):
        create("complete.safetensors", pretrained=True)
    shallow = create("complete.safetensors", backbone_kwargs={**kwargs, "depth": 1})
    assert {key.split(".")[2] for key in shallow.load_report.dropped if "blocks" in key} == {"1"}


class MaliciousPickle:
    """An object that prints when it is unpickled."""

    def __reduce__(self):
        return (print, ("run!",))


def test_loading_executes_no_code(tmp_path, capfd):
    torch.save({"state_dict": {"cls_token": MaliciousPickle()}}, tmp_path / "malicious.pth")
    with pytest.raises(XViTError, match=r"malicious\.pth: holds more than tensors, so it was not loaded"):
        create_model(TINY, num_classes=2, checkpoint_path=tmp_path / "malicious.pth")
    assert "run!" not in capfd.readouterr().out


def test_pretrained_weights_are_read_from_the_local_cache(tmp_path, monkeypatch):
    """Without a network, weights are read from a directory with the layout of the Hub's cache."""
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    repo_id = timm.get_pretrained_cfg(name).hf_hub_id
    repository = tmp_path / f"models--{repo_id.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir()
    image, kwargs = image_model(name)
    save_file(image.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = create_model(name, num_classes=2, pretrained=True, backbone_kwargs=kwargs)
    assert str(model.load_report).startswith(f"{repo_id} (Hugging Face Hub): ")
    assert "dropped backbone.head (2)" in str(model.load_report)
    assert torch.equal(model.backbone.cls_token, image.cls_token)
    with pytest.raises(XViTError, match=r"from the Hugging Face Hub or its local cache: .* set checkpoint_path"):
        create_model("vit_small_patch16_224", num_classes=2, pretrained=True, backbone_kwargs={"depth": 1})


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path, monkeypatch, capfd):
    """huggingface_hub itself tries for a minute, and says so each time."""
    calls = []

    class Session:
        def head(self, address, *, timeout):
            calls.append((address, timeout))
            raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        XViTError, match=r"^pretrained=True: cannot get model\.safetensors of timm/.* set checkpoint_pa"
    ):
        create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=2, pretrained=True)
    assert calls == [("https://huggingface.co", 10)]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert capfd.readouterr() == ("", "")
