"""Checkpoint directories: saving and loading, protection of other files, errors for invalid ones."""

import json
import shutil
from contextlib import suppress

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata
from xvit import XViT
from xvit.checkpoint import weights
from xvit.utils.errors import WriteError, XViTError

load = XViT.from_pretrained


def save(directory, model, *, class_names=CLASSES, provenance):
    model.clip_spec, model.provenance = CLIP, provenance
    model.class_names = class_names if isinstance(class_names, dict) else list(class_names)
    model.save_pretrained(directory)


@pytest.fixture
def directory(tmp_path):
    """A checkpoint directory."""
    directory = tmp_path / "best"
    save(directory, make_model(), provenance={"seed": 3})
    return directory


def edit_config(directory, **changes):
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_weights(directory, edit):
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def load_error(directory) -> str:
    """The message of the error raised by loading, a single line with the path."""
    with pytest.raises(XViTError) as caught:
        load(directory)
    text = str(caught.value)
    assert "\n" not in text
    assert str(directory) in text
    return text


def test_save_and_load(directory):
    model, loaded = make_model(), load(directory)
    assert loaded.clip_spec == CLIP
    assert loaded.class_names == list(CLASSES)
    assert loaded.provenance == {"seed": 3}
    assert loaded.config == model.config
    assert not any(module.training for module in loaded.modules())
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    pixels = torch.randn(2, 4, 3, 16, 16)
    assert torch.equal(loaded(pixels), model(pixels))


def test_several_tasks(tmp_path):
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    save(tmp_path / "run", make_model({"verb": 2, "noun": 3}), class_names=names, provenance={})
    assert load(tmp_path / "run").class_names == names


@pytest.mark.parametrize(
    "keys", [("backbone_kwargs", "cache_dir"), ("backbone_kwargs",), ("num_classes",), ("advanced", "mixing_layers")]
)
@pytest.mark.parametrize("wrap", [lambda spec: spec, json.dumps, lambda spec: [spec], lambda spec: {"a": spec}])
def test_config_executes_no_code(directory, tmp_path, keys, wrap, capfd, monkeypatch):
    """The settings parser can instantiate any class; a config file must neither use this nor import a module."""
    (tmp_path / "attacker_module.py").write_text("print('run!')\nclass Thing: pass")
    for name in ("attacker_module.Thing", "subprocess.Popen"):
        spec = {"class_path": name, "init_args": {"args": f"touch {tmp_path}/pwned", "shell": True}}
        model = json.loads((directory / "config.json").read_text())["model"]
        inner = model
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = wrap(spec)
        edit_config(directory, model=model)
        monkeypatch.syspath_prepend(str(tmp_path))
        with suppress(XViTError):  # where a string is expected, the config is valid
            load(directory)
    assert "run!" not in capfd.readouterr().out
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": None},
        {"backbone_kwargs": None},
        {"backbone_kwargs": {"num_heads": 0}},
        {"backbone_kwargs": {"patch_size": 0}},
        {"backbone_kwargs": {"img_size": [32]}},
        {"backbone_kwargs": {"norm_layer": "none such"}},
        {"backbone_kwargs": {"depth": 200000}},
        {"backbone_kwargs": {"depth": 0}},
        {"num_frames": 10**30},
        {"advanced": {"temporal_layers": 200000}},
        {"window": 10**9},
        {"advanced": {"classifier_hidden": 10**18}},
    ],
)
def test_invalid_settings_give_a_one_line_error(directory, change):
    edit_config(directory, model=json.loads((directory / "config.json").read_text())["model"] | change)
    load_error(directory)


def test_deeply_nested_config(directory):
    (directory / "config.json").write_text('{"format": 1, "model": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "not readable as JSON" in load_error(directory)


def test_tensors_of_other_types(directory):
    pixels = torch.randn(1, 4, 3, 16, 16)
    expected = load(directory)(pixels)
    edit_weights(directory, lambda tensors: tensors.update({name: t.double() for name, t in tensors.items()}))
    assert torch.equal(load(directory)(pixels), expected)
    load(directory).bfloat16().save_pretrained(directory)
    assert {tensor.dtype for tensor in load(directory).state_dict().values()} == {torch.float32}
    edit_weights(
        directory, lambda tensors: tensors.update({"classifier.fc.label.bias": torch.zeros(3, dtype=torch.int8)})
    )
    assert "classifier.fc.label.bias is of torch.int8: expected floating point" in load_error(directory)


def test_saving_keeps_other_files(tmp_path):
    model = with_metadata(make_model(), list(CLASSES))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("all of it")
    with pytest.raises(XViTError, match=r"holds files that are not of a checkpoint \(thesis.txt\)"):
        model.save_pretrained(tmp_path / "thesis")
    with pytest.raises(XViTError, match="a file"):
        model.save_pretrained(tmp_path / "thesis" / "thesis.txt")
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "all of it"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    model.save_pretrained(tmp_path / "link")
    assert (tmp_path / "real" / "config.json").exists()
    model.save_pretrained(tmp_path / "real")  # replaces the checkpoint
    model.provenance = {"date": object()}
    with pytest.raises(XViTError, match=r"cannot be written to config.json"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_of_a_checkpoint(directory):
    """All files have the same permissions, and the card starts with metadata for the Hub."""
    assert {p.name for p in directory.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert len({path.stat().st_mode for path in directory.iterdir()}) == 1
    _, metadata, text = (directory / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata)["pipeline_tag"] == "video-classification"
    assert "vit_tiny_patch16_224" in text
    assert all(f"`{name}`" in text for name in CLASSES)
    assert "| seed | 3 |" in text


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800", "\U0001f600\udfff"])
def test_class_names_that_are_no_text_are_refused(name, tmp_path):
    with pytest.raises(XViTError, match=f'class "{name}": the name is not valid UTF-8: rename the class'):
        save(tmp_path / "run", make_model(), class_names=["a", "b", name], provenance={})
    assert not (tmp_path / "run").exists()


def test_class_names_must_match_the_classes(tmp_path):
    with pytest.raises(XViTError, match="class_names: names of 2 classes, but the model has 3"):
        save(tmp_path / "run", make_model(), class_names=["a", "b"], provenance={})
    with pytest.raises(XViTError, match="noun"):
        save(tmp_path / "run", make_model(), class_names={"noun": list(CLASSES)}, provenance={})
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_previous_checkpoint(directory, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(WriteError, match=r"/best: cannot be written: disk full$"):
        save(directory, make_model(), provenance={"seed": 4})
    assert load(directory).provenance == {"seed": 3}
    monkeypatch.undo()
    save(directory, make_model(), provenance={"seed": 5})
    assert load(directory).provenance == {"seed": 5}
    assert [path.name for path in directory.parent.iterdir()] == ["best"]


def test_process_killed_between_the_renames_loses_no_checkpoint(directory):
    directory.rename(directory.with_name(".best.older"))
    assert load(directory).provenance == {"seed": 3}
    save(directory, make_model(), provenance={"seed": 4})
    assert load(directory).provenance == {"seed": 4}
    assert [path.name for path in directory.parent.iterdir()] == ["best"]


def test_directories_without_a_checkpoint(directory, tmp_path):
    assert "no such checkpoint directory" in load_error(tmp_path / "nowhere")
    assert "a file" in load_error(directory / "config.json")
    assert f'did you mean "{directory}"?' in load_error(tmp_path)
    (directory / "model.safetensors").unlink()
    assert "model.safetensors missing" in load_error(directory)
    shutil.rmtree(directory)
    directory.mkdir()
    assert "model.safetensors and config.json missing" in load_error(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "format 3; this version of xvit reads format 2"),
        (
            {"format": 1},
            "format 1, written by an earlier version of xvit, whose settings had other names. Convert it: xvit",
        ),
        ({"format": "1"}, 'no "format" number'),
        ({"extra": 1}, 'unknown key "extra"'),
        ({"clip_spec": None}, 'key "clip_spec" is missing'),
        ({"clip_spec": [1]}, 'key "clip_spec": expected a mapping'),
        ({"class_names": "abc"}, 'key "class_names": expected a list of class names'),
        ({"class_names": ["a", "b", 3]}, "class_names=['a', 'b', 3]: expected a list of names"),
        ({"class_names": ["a", "b"]}, "class_names: names of 2 classes, but the model has 3"),
        ({"provenance": 1}, 'key "provenance": expected a mapping'),
        ({"clip_spec": {"num_frame": 4}}, 'unknown key "num_frame". Did you mean "num_frames"?'),
        ({"clip_spec": {"num_frames": "many"}}, "num_frames"),
        ({"clip_spec": {"num_frames": 4}}, "clip_spec: image_size, interpolation, mean, std missing"),
        ({"clip_spec": {"num_frames": 0}}, "num_frames=0"),
        ({"model": {"backbone": "vit_tiny_patch16_225", "num_classes": 3}}, "vit_tiny_patch16_225"),
    ],
)
def test_invalid_configs(directory, changes, message):
    edit_config(directory, **changes)
    assert message in load_error(directory)


def test_config_that_is_not_json(directory):
    (directory / "config.json").write_text("{")
    assert "not readable as JSON" in load_error(directory)


def test_missing_unexpected_and_wrongly_shaped_tensors(directory):
    def edit(tensors):
        for name in [name for name in tensors if name.startswith("backbone.blocks.1.")]:
            del tensors[name]
        tensors["unused"] = torch.zeros(1)
        tensors["classifier.fc.label.bias"] = torch.zeros(7)

    edit_weights(directory, edit)
    text = load_error(directory)
    assert "12 missing (backbone.blocks.1.norm1.weight, " in text
    assert "1 unexpected (unused)" in text
    assert "1 of a wrong shape (classifier.fc.label.bias: (7,), expected (3,))" in text


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_file(directory, size):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "not readable as safetensors" in load_error(directory)


def test_unavailable_device(directory):
    with pytest.raises(XViTError, match="device='cuda:99' is not available"):
        load(directory, device="cuda:99")
    with pytest.raises(XViTError, match="device='gpu'"):
        load(directory, device="gpu")
