"""An export whose files do not go together: refused when it is opened, before memory is allocated."""

import json
import shutil

import numpy as np
import pytest
import torch

from helpers.color_videos import SIZE
from helpers.exports import NO_LIMITS, STREAMING, make_original
from xvit.export import ExportedModel, backends, export_model
from xvit.export.manifest import PROGRAM_FILES, read_manifest
from xvit.utils.errors import XViTError

FORMATS = ["onnx", "openvino", "torch"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, video_dir):
    """A program for clips in every format, and a streaming step. Their copies load each slow format only once."""
    root = tmp_path_factory.mktemp("exports")
    options = {"videos": [video_dir], "num_clips": 2, "limits": NO_LIMITS}
    for name in FORMATS:
        export_model(make_original(), root / name, format=name, **options)
    export_model(make_original(**STREAMING), root / "stream", format="onnx", streaming=True, **options)
    with pytest.MonkeyPatch.context() as patch:
        for format in ("openvino", "torch"):
            path, manifest = root / format / PROGRAM_FILES[format], read_manifest(root / format)
            program = backends.LOADERS[format](path, manifest, "cpu")
            patch.setitem(backends.LOADERS, format, lambda *_, program=program: program)
        yield root


def edit(directory, name, changes):
    path = directory / name
    values = json.loads(path.read_text())
    for key, value in changes.items():
        group, _, leaf = key.rpartition(".")
        (values[group] if group else values)[leaf] = value
    path.write_text(json.dumps(values))


CHANGES = {
    "frames": ("config.json", {"model.num_frames": 8}),
    "size": ("config.json", {"clip_spec.image_size": 32}),
    "channels": ("config.json", {"model.backbone_kwargs": {"in_chans": 1}}),
    "classes": ("config.json", {"model.num_classes": 4, "class_names": list("abcd")}),
    "tasks": (
        "config.json",
        {"model.num_classes": {"a": 3, "b": 3}, "class_names": {"a": list("abc"), "b": list("abc")}},
    ),
    "state": ("export.json", {"state": {"ring": [4, 4]}}),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_program_that_does_not_go_with_its_settings_is_refused(format, name, exports, tmp_path):
    directory = shutil.copytree(exports / format, tmp_path / format)
    ExportedModel(directory, trust_code=True)
    file, changes = CHANGES[name]
    edit(directory, file, changes)
    with pytest.raises(XViTError) as caught:
        ExportedModel(directory, trust_code=True)
    message = str(caught.value)
    assert message.startswith(f"{directory}/model.")
    assert "not the program of config.json and export.json: " in message
    assert "\n" not in message


@pytest.mark.parametrize("shapes", [[(0, 3)], [(1, 3)], [(2, 2)], [(2, 3, 1)], [(2,)], [], [(2, 3), (2, 3)]], ids=str)
def test_results_of_other_shapes_are_refused(shapes, exports, monkeypatch):
    exported = ExportedModel(exports / "onnx")
    clips = torch.zeros(2, exported.config.num_frames, 3, SIZE, SIZE)
    assert exported(clips).shape == (2, 3)
    monkeypatch.setattr(exported, "_run", lambda inputs: [torch.zeros(shape) for shape in shapes])
    with pytest.raises(XViTError, match=r"model\.onnx: not the program of .*: results .*, expected \(2, 3\)$"):
        exported(clips)


STATES = {
    "one value more": lambda state: {name: [shape[0] + 1, *shape[1:]] for name, shape in state.items()},
    "as much again": lambda state: state | {f"{name}_2": shape for name, shape in state.items()},
    "a gigabyte": lambda state: {name: [2**27] for name in state},
    "many gigabytes": lambda state: {name: [10**5, 10**5] for name in state},
    "400 digits": lambda state: {name: [10**400] for name in state},
    "none": lambda state: {},
    "negative": lambda state: {name: [-1] for name in state},
    "NaN": lambda state: {name: [float("nan")] for name in state},
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_is_compared_with_the_program_before_it_is_allocated(name, exports, tmp_path, monkeypatch):
    directory = shutil.copytree(exports / "stream", tmp_path / "stream")
    state = ExportedModel(directory).manifest.state
    assert state
    edit(directory, "export.json", {"state": STATES[name](state)})

    def allocate(*args, **kwargs):
        raise AssertionError("the state was allocated")

    monkeypatch.setattr(torch, "zeros", allocate)
    monkeypatch.setattr(np, "zeros", allocate)
    with pytest.raises(XViTError) as caught:
        ExportedModel(directory)
    assert str(caught.value).startswith(str(directory))
    assert len(str(caught.value)) < len(str(directory)) + 400


def test_another_models_program_is_refused(exports, tmp_path):
    directory = shutil.copytree(exports / "onnx", tmp_path / "onnx")
    for path in (exports / "stream").glob("model.onnx*"):  # with its weights
        shutil.copy(path, directory)
    with pytest.raises(XViTError, match=r"model\.onnx: not the program of config\.json and export\.json: inputs"):
        ExportedModel(directory)
