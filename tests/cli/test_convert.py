"""`xvit convert`: checkpoints of the paper's authors, and files of an earlier version."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.official import GOLDEN, OPTIONS, golden_clip, model_state
from xvit import XViT, load_official
from xvit.config import RunConfig, from_dict, read_yaml

FORMAT_1 = Path(__file__).parents[1] / "assets" / "format1"


@torch.no_grad()
def test_official_checkpoint_keeps_its_logits(run, cli_error, tmp_path):
    golden = load_file(GOLDEN)
    state = model_state(golden)
    torch.save({"model_state": state | {"new_fc.bias": torch.zeros(7)}}, tmp_path / "theirs.pth")
    (tmp_path / "names.json").write_text(json.dumps({f"class {i}": str(6 - i) for i in range(7)}))
    words = ["convert", tmp_path / "theirs.pth", "--num-heads", "3", "--mix-ratio", "1/4"]
    clip = ["--clip.sampling", "strided", "--clip.stride", "16", "--class-names", tmp_path / "names.json"]
    code, out, _ = run(*words, "--num-frames", "4", "--output", tmp_path / "ours", "--json", *clip)
    assert code == 0
    facts = json.loads(out)
    assert facts["dropped"] == "new_fc.bias"
    assert facts["tensors"] == len(state)
    model = XViT.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(model(golden_clip()), golden["logits"], atol=1e-5, rtol=0)
    assert model.class_names == [f"class {6 - i}" for i in range(7)]
    assert (model.clip_spec.sampling, model.clip_spec.stride, model.clip_spec.mean) == ("strided", 16, (0.5, 0.5, 0.5))
    assert len(model.provenance["source"]["sha256"]) == 64

    code, out, _ = run(*words, "--num-frames", "8", "--output", tmp_path / "longer", "--segment-frames", "4")
    assert code == 0
    assert "within segments of 4 frames" in out
    loaded = load_official(GOLDEN, **(OPTIONS | {"num_frames": 8}), segment_frames=4)
    converted = XViT.from_pretrained(tmp_path / "longer")
    weights, expected = converted.state_dict(), loaded.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    # not the same bits on all processors: kernels depend on where the weights are in memory
    torch.testing.assert_close(converted(golden_clip(8)), loaded(golden_clip(8)), atol=1e-6, rtol=0)

    (tmp_path / "few.txt").write_text("a\nb\n")
    words += ["--num-frames", "4", "--output"]
    assert "exists and is not an empty directory" in cli_error(*words, tmp_path / "longer")
    new = tmp_path / "new"
    assert "few.txt: 2 class names, but" in cli_error(*words, new, "--class-names", tmp_path / "few.txt")
    assert "none.txt: no such file" in cli_error(*words, new, "--class-names", tmp_path / "none.txt")
    assert "--mix-ratio: expected a fraction such as 0.25 or 1/3, got half" in cli_error(
        *words, new, "--mix-ratio", "half"
    )
    assert "--num-frames: missing" in cli_error("convert", tmp_path / "theirs.pth", "--output", new)
    assert "nowhere: no such file or folder" in cli_error("convert", tmp_path / "nowhere", "--output", new)
    assert not new.exists()


@pytest.mark.parametrize("name", ["single", "tasks"])
def test_checkpoint_directory_of_format_1(name, run, cli_error, tmp_path):
    words = ["convert", FORMAT_1 / name, "--output"]
    assert "xvit convert" in cli_error("info", "--checkpoint", FORMAT_1 / name)
    code, out, err = run(*words, tmp_path / "new", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"checkpoint": str(FORMAT_1 / name), "output": str(tmp_path / "new")}
    assert XViT.from_pretrained(tmp_path / "new").class_names
    assert run("info", "--checkpoint", tmp_path / "new")[0] == 0
    assert "exists and is not an empty directory" in cli_error(*words, tmp_path / "new")
    assert "only format 1 needs to be converted" in cli_error(
        "convert", tmp_path / "new", "--output", tmp_path / "other"
    )
    assert "--num-frames: only for a checkpoint file" in cli_error(*words, tmp_path / "other", "--num-frames", "4")
    assert "--clip.stride: only for a checkpoint file" in cli_error(*words, tmp_path / "other", "--clip.stride", "4")
    assert not (tmp_path / "other").exists()


def test_recipe_of_an_earlier_version(run, cli_error, tmp_path):
    words = ["convert", FORMAT_1 / "recipe.yaml", "--output"]
    new = tmp_path / "folder" / "new.yaml"
    code, out, err = run(*words, new)
    assert (code, err) == (0, "")
    assert str(new) in out
    config = from_dict(RunConfig, read_yaml(new), new)
    assert config.model.causal
    assert config.model.advanced.spatial_position == "sincos"
    assert run("train", "--config", new, "--print-config")[0] == 0
    assert f"{new}: exists; choose another --output" in cli_error(*words, new)
    (tmp_path / "wrong.yaml").write_text("model: {tubelets: 2}")
    message = cli_error("convert", tmp_path / "wrong.yaml", "--output", tmp_path / "other.yaml")
    assert 'wrong.yaml: unknown key "model.tubelets"' in message
    assert not (tmp_path / "other.yaml").exists()
