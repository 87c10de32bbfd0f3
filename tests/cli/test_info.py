"""`xvit info`."""

import json

import pytest
import timm
import torch

from xvit.data.synthetic.motion import CLASSES


def test_parameters_and_macs_beside_those_of_the_paper(run):
    code, out, _ = run("info", "--backbone", "vit_base_patch16_224", "--num-frames", 8, "--json")
    assert code == 0
    facts = json.loads(out)
    D, patches, layers, frames = 768, 196, 12, 8
    N = patches + 1
    unread = 9 * D * D + 2 * N * D  # skipped in the last layer for tokens that nothing reads: all but keys and values
    frame = patches * 16 * 16 * 3 * D + layers * (N * 12 * D * D + 2 * N * N * D)  # embedding, projections, attention
    head = (frames + 1) * 12 * D * D + 2 * (frames + 1) ** 2 * D  # temporal attention
    assert facts["macs_per_view"] == pytest.approx(frames * (frame - patches * unread) + head, rel=1e-3)
    assert facts["macs_1x3_views"] == 3 * facts["macs_per_view"]
    assert facts["macs_1x3_views_all_tokens"] == pytest.approx(3 * (frames * frame + head), rel=1e-3)
    assert facts["macs_1x3_views_all_tokens"] == pytest.approx(425e9, rel=0.02)
    assert facts["paper_macs_1x3_views"] == 425e9
    assert facts["input"] == [8, 3, 224, 224]
    with torch.device("meta"):
        image_model = timm.create_model("vit_base_patch16_224", num_classes=0)
    added = facts["parameters"] - sum(parameter.numel() for parameter in image_model.parameters())
    assert added == pytest.approx(12 * D * D, rel=0.01)  # one layer of temporal attention
    text = run("info", "--num_frames=8")[1]
    assert "(paper: 425.0e9; 421.7e9 with all tokens of the last layer)" in text
    assert "paper" not in run("info", "--attention", "spatial")[1]
    assert "paper" not in run("info", "--num-frames", 4)[1]


def test_checkpoint(run, cli_error, checkpoint, tmp_path):
    facts = json.loads(run("info", "--checkpoint", checkpoint, "--json")[1])
    assert facts["class_names"] == sorted(CLASSES)
    assert facts["clip_spec"]["image_size"] == 48
    assert facts["input"] == [4, 3, 48, 48]
    text = run("info", "--checkpoint", checkpoint)[1]
    assert "4 frames, segments, 48 px" in text
    assert f"class names       {', '.join(sorted(CLASSES)[:6])}, ... (12)" in text
    assert "no such checkpoint directory" in cli_error("info", "--checkpoint", tmp_path / "none")


def test_unsuitable_backbones_are_refused(cli_error):
    assert "xvit info --list-backbones" in cli_error("info", "--backbone", "resnet50")
    assert 'Did you mean "vit_base_patch16_224"?' in cli_error("info", "--backbone", "vit_base_patch16_242")


def test_list_backbones(run, monkeypatch):
    names = ["vit_tiny_patch16_224", "vit_base_patch16_xp_224"]  # the blocks of the second have no attention module
    monkeypatch.setattr(timm, "list_models", lambda *args, **kwargs: names)
    assert json.loads(run("info", "--list-backbones", "--json")[1]) == names[:1]


def test_tubelets_and_merged_tokens(run):
    words = ("info", "--tubelet-size", 2, "--tome-r", 8)
    facts = json.loads(run(*words, "--json")[1])
    assert facts["input"] == [8, 3, 224, 224]
    assert "paper_macs_1x3_views" not in facts
    assert "4 tubelets x 197 (196 patches + 1 prefix tokens), 8 fewer after each layer" in run(*words)[1]
