"""Checkpoints: what comes back, what is never lost, and what is said of a directory that is none."""

import json
import shutil
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata
from xvit import XViT
from xvit.checkpoint import format as checkpoint
from xvit.checkpoint import hub, push_to_hub
from xvit.utils.errors import XViTError

load = XViT.from_pretrained


def save(directory, model, *, class_names=CLASSES, provenance):
    model.clip_spec, model.provenance = CLIP, provenance
    model.class_names = class_names if isinstance(class_names, dict) else list(class_names)
    model.save_pretrained(directory)


@pytest.fixture
def saved(tmp_path):
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


def one_line(directory) -> str:
    with pytest.raises(XViTError) as caught:
        load(directory)
    text = str(caught.value)
    assert "\n" not in text
    assert str(directory) in text
    return text


def test_what_comes_back_is_what_was_saved(saved):
    model, found = make_model(), load(saved)
    assert found.clip_spec == CLIP
    assert found.class_names == list(CLASSES)
    assert found.provenance == {"seed": 3}
    assert found.config == model.config
    assert not any(module.training for module in found.modules())
    state = found.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in found.parameters())
    pixels = torch.randn(2, 4, 3, 16, 16)
    assert torch.equal(found(pixels), model(pixels))


def test_several_tasks(tmp_path):
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    save(tmp_path / "run", make_model({"verb": 2, "noun": 3}), class_names=names, provenance={})
    assert load(tmp_path / "run").class_names == names


@pytest.mark.parametrize(
    "place", [("backbone_kwargs", "cache_dir"), ("backbone_kwargs",), ("num_classes",), ("advanced", "mixing_layers")]
)
@pytest.mark.parametrize("wrap", [lambda spec: spec, json.dumps, lambda spec: [spec], lambda spec: {"a": spec}])
def test_a_config_runs_nothing(saved, tmp_path, place, wrap, capfd, monkeypatch):
    """The parser of settings can make objects of any class; a file must not have it do so, nor import a module."""
    (tmp_path / "module_of_theirs.py").write_text("print('run!')\nclass Thing: pass")
    for name in ("module_of_theirs.Thing", "subprocess.Popen"):
        spec = {"class_path": name, "init_args": {"args": f"touch {tmp_path}/pwned", "shell": True}}
        model = json.loads((saved / "config.json").read_text())["model"]
        inner = model
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = wrap(spec)
        edit_config(saved, model=model)
        monkeypatch.syspath_prepend(str(tmp_path))
        with suppress(XViTError):  # a string in a string's place is only a string
            load(saved)
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
def test_settings_that_lead_nowhere_are_one_line(saved, change):
    edit_config(saved, model=json.loads((saved / "config.json").read_text())["model"] | change)
    one_line(saved)


def test_a_deep_config(saved):
    (saved / "config.json").write_text('{"format": 1, "model": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "not readable as JSON" in one_line(saved)


def test_other_types_of_numbers_in_a_file(saved):
    pixels = torch.randn(1, 4, 3, 16, 16)
    expected = load(saved)(pixels)
    edit_weights(saved, lambda tensors: tensors.update({name: t.double() for name, t in tensors.items()}))
    assert torch.equal(load(saved)(pixels), expected)
    load(saved).bfloat16().save_pretrained(saved)
    assert {tensor.dtype for tensor in load(saved).state_dict().values()} == {torch.float32}
    edit_weights(saved, lambda tensors: tensors.update({"classifier.fc.label.bias": torch.zeros(3, dtype=torch.int8)}))
    assert "classifier.fc.label.bias is of torch.int8: expected floating point" in one_line(saved)


def test_nothing_else_in_a_folder_is_lost(tmp_path):
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
    model.save_pretrained(tmp_path / "real")  # a checkpoint is replaced
    model.provenance = {"date": object()}
    with pytest.raises(XViTError, match=r"cannot be written to config.json"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_a_directory_holds(saved):
    """All of it readable by whoever can read the config, and a card whose head the Hub can read."""
    assert {p.name for p in saved.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1
    _, head, text = (saved / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "video-classification"
    assert "vit_tiny_patch16_224" in text
    assert all(f"`{name}`" in text for name in CLASSES)
    assert "| seed | 3 |" in text


def test_upload_and_download(saved, tmp_path, monkeypatch):
    """push_to_hub uploads a complete directory; a name that is not a local path is looked up on the Hub."""
    uploaded = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, **options):
            assert (repo_id, options) == ("me/colours", {"private": True, "exist_ok": True})

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, uploaded)
            return SimpleNamespace(commit_url="https://hub/me/colours/commit/1")

    monkeypatch.setattr(hub, "HfApi", Api)
    assert push_to_hub(load(saved), "me/colours", private=True) == "https://hub/me/colours/commit/1"

    def download(name, *, revision, allow_patterns):
        assert (name, revision) == ("me/colours", "v2")
        return str(uploaded)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", download)
    found = load("me/colours", revision="v2").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in make_model().state_dict().items())
    (tmp_path / "me").mkdir()
    with pytest.raises(XViTError, match=r"me/colours: no such checkpoint directory$"):  # a path, as its folder exists
        load("me/colours", revision="v2")


def test_labels_must_fit_the_classes(tmp_path):
    with pytest.raises(XViTError, match="class_names: names of 2 classes, but the model has 3"):
        save(tmp_path / "run", make_model(), class_names=["a", "b"], provenance={})
    with pytest.raises(XViTError, match="noun"):
        save(tmp_path / "run", make_model(), class_names={"noun": list(CLASSES)}, provenance={})
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_older_checkpoint(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(saved, make_model(), provenance={"seed": 4})
    assert load(saved).provenance == {"seed": 3}
    monkeypatch.undo()
    save(saved, make_model(), provenance={"seed": 5})
    assert load(saved).provenance == {"seed": 5}
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_a_process_killed_between_the_renames_loses_nothing(saved):
    saved.rename(saved.with_name(".best.older"))
    assert load(saved).provenance == {"seed": 3}
    save(saved, make_model(), provenance={"seed": 4})
    assert load(saved).provenance == {"seed": 4}
    assert [path.name for path in saved.parent.iterdir()] == ["best"]


def test_directories_that_are_no_checkpoints(saved, tmp_path):
    assert "no such checkpoint directory" in one_line(tmp_path / "nowhere")
    assert "a file" in one_line(saved / "config.json")
    assert f'did you mean "{saved}"?' in one_line(tmp_path)
    (saved / "model.safetensors").unlink()
    assert "model.safetensors missing" in one_line(saved)
    shutil.rmtree(saved)
    saved.mkdir()
    assert "model.safetensors and config.json missing" in one_line(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
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
        ({"clip_spec": {"num_frame": 4}}, 'unknown key "num_frame" in ClipSpec. Did you mean "num_frames"?'),
        ({"clip_spec": {"num_frames": "many"}}, "num_frames"),
        ({"clip_spec": {"num_frames": 4}}, "clip_spec: image_size, interpolation, mean, std missing"),
        ({"clip_spec": {"num_frames": 0}}, "num_frames=0"),
        ({"model": {"backbone": "vit_tiny_patch16_225", "num_classes": 3}}, "vit_tiny_patch16_225"),
    ],
)
def test_configs_that_are_not_ours(saved, changes, said):
    edit_config(saved, **changes)
    assert said in one_line(saved)


def test_a_config_that_is_no_json(saved):
    (saved / "config.json").write_text("{")
    assert "not readable as JSON" in one_line(saved)


def test_tensors_that_do_not_fit(saved):
    def edit(tensors):
        for name in [name for name in tensors if name.startswith("backbone.blocks.1.")]:
            del tensors[name]
        tensors["stray"] = torch.zeros(1)
        tensors["classifier.fc.label.bias"] = torch.zeros(7)

    edit_weights(saved, edit)
    text = one_line(saved)
    assert "12 missing (backbone.blocks.1.norm1.weight, " in text
    assert "1 unexpected (stray)" in text
    assert "1 of a wrong shape (classifier.fc.label.bias: (7,), expected (3,))" in text


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_a_file_cut_off(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "not readable as safetensors" in one_line(saved)


def test_a_device_that_is_not_there(saved):
    with pytest.raises(XViTError, match="device='cuda:99' is not available"):
        load(saved, device="cuda:99")
    with pytest.raises(XViTError, match="device='gpu'"):
        load(saved, device="gpu")
