"""Checkpoints whose numbers are not to be believed: compared before a model is built, refused with file and key."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit import XViT
from xvit.models.official import read_state
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint") / "best"
    with_metadata(make_model(), list(CLASSES)).save_pretrained(directory)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "best")


def edit_config(directory, group, changes):
    path = directory / "config.json"
    values = json.loads(path.read_text())
    for name, value in changes.items():
        inner = values[group]
        *keys, leaf = name.split(".")
        for key in keys:
            inner = inner[key]
        inner[leaf] = value
    path.write_text(json.dumps(values))


STATED = {
    "clip frames": ("clip_spec", {"num_frames": 10**6}),
    "clip size": ("clip_spec", {"image_size": 10**6}),
    "clip pixels": ("clip_spec", {"num_frames": 4000, "image_size": 4000}),
    "NaN mean": ("clip_spec", {"mean": [float("nan"), 0.5, 0.5]}),
    "zero std": ("clip_spec", {"std": [0.5, 0, 0.5]}),
    "negative std": ("clip_spec", {"std": [0.5, 0.5, -0.5]}),
    "model frames": ("model", {"num_frames": 10**6}),
    "summary tokens": ("model", {"summary_tokens": 10**6}),
    "layers": ("model", {"backbone_kwargs.depth": 100}),
    "temporal layers": ("model", {"advanced.temporal_layers": 99}),
    "400 digits": ("model", {"backbone_kwargs.embed_dim": 10**400}),
}


@pytest.mark.parametrize("name", STATED)
def test_stated_numbers_are_compared_before_a_model_is_built(name, directory, monkeypatch):
    edit_config(directory, *STATED[name])

    def build(self, config):
        raise AssertionError("the model was built")

    monkeypatch.setattr(XViT, "__init__", build)
    with pytest.raises(XViTError) as caught:
        XViT.from_pretrained(directory)
    assert str(caught.value).startswith(str(directory))
    assert "\n" not in str(caught.value)


def test_sizes_are_compared_before_memory_is_allocated(directory):
    edit_config(directory, "model", {"backbone_kwargs.embed_dim": 65536, "num_frames": 4096})
    with pytest.raises(XViTError, match=r"model\.safetensors: tensors do not match the model of config\.json"):
        XViT.from_pretrained(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["backbone.blocks.1.attn.qkv.weight", "classifier.fc.label.bias", "backbone.norm.bias"]
)
def test_weights_that_are_no_numbers_are_refused_by_name(name, value, directory):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path)
    for load in (XViT.from_pretrained, lambda directory: make_model(checkpoint_path=str(directory))):
        with pytest.raises(XViTError, match=rf"{path}: {name} has NaN or infinite values"):
            load(directory)


def test_image_weights_that_are_no_numbers_are_refused(tmp_path):
    weights = {
        name.removeprefix("backbone."): x for name, x in make_model().state_dict().items() if "backbone." in name
    }
    path = tmp_path / "image.safetensors"
    save_file(weights, path)
    make_model(checkpoint_path=str(path))
    weights["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")
    save_file(weights, path)
    with pytest.raises(XViTError, match=r"image\.safetensors: backbone\.blocks\.0\.mlp\.fc1\.weight has NaN"):
        make_model(checkpoint_path=str(path))
    torch.save({"model_state": {"head.weight": torch.full((2, 2), torch.nan)}}, tmp_path / "authors.pyth")
    with pytest.raises(XViTError, match=r"authors\.pyth: head\.weight has NaN"):
        read_state(tmp_path / "authors.pyth")


def hostile_files(data: bytes) -> dict[str, bytes]:
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]

    def with_header(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + rest

    return {
        "empty": b"",
        "cut short": data[: len(data) // 2],
        "a header of 2^63 bytes": b"\xff" * 8 + data[8:],
        "a deep header": with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "a type that torch does not have": with_header(header.replace(b'"F32"', b'"F4"', 1)),
        "an unknown type": with_header(header.replace(b'"F32"', b'"Q99"', 1)),
        "another type": with_header(header.replace(b'"F32"', b'"I32"', 1)),
        "a pickle": b"\x80\x04N.",
    }


@pytest.mark.parametrize("name", hostile_files(bytes(64)))
def test_a_hostile_weight_file_is_an_error_of_one_line(name, directory):
    path = directory / "model.safetensors"
    path.write_bytes(hostile_files(path.read_bytes())[name])
    for load in (XViT.from_pretrained, lambda directory: make_model(checkpoint_path=str(directory))):
        with pytest.raises(XViTError) as caught:
            load(directory)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
