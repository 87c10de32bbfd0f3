"""The calibration in config.json: stored, read, checked, and left out where the weights are others."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.calibration import naive_energy, with_calibration
from helpers.color_videos import CLASSES, make_config, make_model, with_metadata, write_videos
from xvit import XViT
from xvit.checkpoint.format import store_calibration
from xvit.checkpoint.weights import weights_hash
from xvit.config import SINGLE_TASK, InitConfig, energies
from xvit.training import fit
from xvit.utils.errors import XViTError


@pytest.fixture
def directory(tmp_path):
    """A calibrated checkpoint."""
    with_calibration(with_metadata(make_model(), list(CLASSES)), threshold=1.5).save_pretrained(tmp_path / "best")
    return tmp_path / "best"


def edit(directory, **changes):
    path = directory / "config.json"
    values = json.loads(path.read_text())
    values["calibration"] |= changes
    path.write_text(json.dumps(values))


@given(st.lists(st.lists(st.floats(-300, 300), min_size=3, max_size=3), min_size=1, max_size=5))
def test_energies_equal_the_naive_form(rows):
    logits = np.array(rows)
    assert energies(logits) == pytest.approx([naive_energy(row) for row in rows], rel=1e-9, abs=1e-9)
    assert energies(logits + 7) == pytest.approx(energies(logits), rel=1e-9, abs=1e-9)  # as the softmax


def test_energies_of_huge_logits_are_finite():
    assert energies(np.array([1e4, 0, -1e4], np.float32)) == pytest.approx(1e4)  # of which the mean is 0


def test_save_and_load(directory, tmp_path):
    model = with_calibration(with_metadata(make_model(), list(CLASSES)), threshold=1.5)
    loaded = XViT.from_pretrained(directory)
    assert loaded.calibration == model.calibration
    assert loaded.checkpoint_metadata == model.checkpoint_metadata
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    tasks = with_calibration(with_metadata(make_model({"verb": 2, "noun": 3}), names))
    tasks.save_pretrained(tmp_path / "tasks")
    assert XViT.from_pretrained(tmp_path / "tasks").calibration == tasks.calibration
    assert list(json.loads((tmp_path / "tasks" / "config.json").read_text())["calibration"]) == ["verb", "noun"]


def test_without_a_calibration_the_file_has_no_such_key(tmp_path):
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "best")
    assert "calibration" not in json.loads((tmp_path / "best" / "config.json").read_text())
    assert XViT.from_pretrained(tmp_path / "best").calibration == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature=0.0: expected a number, between 0.001 and 1000"),
        ({"temperature": -1}, "temperature=-1.0: expected a number, between"),
        ({"temperature": "nan"}, "calibration: temperature: nan: expected a number"),
        ({"temperature": 10**400}, "expected a number"),
        ({"energy_threshold": 1e300}, "energy_threshold=1e+300: expected a number, between"),
        ({"energy_threshold": None}, "energy_threshold: null: expected a number"),
        ({"keep": 2}, "keep=2.0: expected a number, between"),
        ({"videos": 0}, "videos=0: expected a number, at least 1"),
        ({"videos": [1]}, "videos: [1]: expected a whole number"),
        ({"weights_hash": "../x"}, "weights_hash='../x': expected 16 hexadecimal digits"),
        ({"temperatures": 1.0}, 'unknown key "temperatures". Did you mean "temperature"?'),
    ],
    ids=str,
)
def test_wrong_values_are_named(directory, changes, message):
    edit(directory, **changes)
    with pytest.raises(XViTError) as caught:
        XViT.from_pretrained(directory)
    text = str(caught.value)
    assert message in text
    assert str(directory / "config.json") in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "calibration: expected a mapping"),
        ("x", "calibration: expected a mapping"),
        ({}, 'calibration: key "temperature" is missing'),
        ({"temperature": 1.0}, 'calibration: key "energy_threshold" is missing'),
    ],
    ids=str,
)
def test_a_calibration_that_is_none(directory, value, message):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": value}))
    with pytest.raises(XViTError, match=message):
        XViT.from_pretrained(directory)


def test_a_calibration_of_other_tasks_or_a_multi_label_model(tmp_path):
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    model = with_calibration(with_metadata(make_model({"verb": 2, "noun": 3}), names))
    model.calibration = {"verb": model.calibration["verb"]}
    with pytest.raises(XViTError, match="calibration of verb: the model has the tasks verb, noun"):
        model.save_pretrained(tmp_path / "a")
    model = with_calibration(with_metadata(make_model(multi_label=True), list(CLASSES)))
    with pytest.raises(XViTError, match="the multi-label model has the tasks label"):
        model.save_pretrained(tmp_path / "b")


def test_other_weights_have_no_calibration(directory, tmp_path, caplog):
    """Neither when they are saved, nor when a file of another program holds it still."""
    model = XViT.from_pretrained(directory)
    with torch.no_grad():
        model.classifier.fc[SINGLE_TASK].bias[0] += 1e-3
    with caplog.at_level(logging.WARNING, "xvit"):
        model.save_pretrained(tmp_path / "trained")
    assert "the calibration is of other weights and is left out: run `xvit calibrate` again" in caplog.text
    assert "calibration" not in json.loads((tmp_path / "trained" / "config.json").read_text())
    (tmp_path / "trained" / "config.json").write_text((directory / "config.json").read_text())
    caplog.clear()
    with caplog.at_level(logging.WARNING, "xvit"):
        assert XViT.from_pretrained(tmp_path / "trained").calibration == {}
    assert str(tmp_path / "trained") in caplog.text


def test_the_hash_is_of_values_whatever_their_type():
    state = make_model().state_dict()
    rounded = {name: tensor.half().float() for name, tensor in state.items()}
    assert weights_hash(rounded) == weights_hash({name: tensor.half() for name, tensor in rounded.items()})
    assert weights_hash(rounded) != weights_hash(state)
    assert weights_hash(state) == weights_hash(dict(reversed(state.items())))


def test_storing_changes_nothing_else(directory):
    """Neither the weights nor the card, nor what transformers has added to config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["XViTForVideoClassification"]}))
    (directory / "README.md").write_text("my own words")
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    values = json.loads(path.read_text())
    model = with_calibration(make_model(), temperature=5.0)
    store_calibration(directory, model.calibration)
    after = {p.name: p.read_bytes() for p in directory.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"config.json"}
    assert json.loads(path.read_text()) == values | {"calibration": values["calibration"] | {
        "temperature": 5.0, "energy_threshold": 0.0
    }}  # fmt: skip
    assert XViT.from_pretrained(directory).calibration == model.calibration


def test_a_training_that_starts_from_the_model_has_none(tmp_path):
    """The best checkpoint of a run is replaced without it, too."""
    root = write_videos(tmp_path / "videos", train=2, val=1)
    result = fit(make_config(root), tmp_path / "run")
    model = with_calibration(XViT.from_pretrained(result.last))
    store_calibration(result.last, model.calibration)
    config = make_config(root)
    config = replace(config, init=InitConfig(checkpoint_path=str(result.last)))
    again = fit(config, tmp_path / "again")
    for folder in (again.best, again.last):
        assert "calibration" not in json.loads((folder / "config.json").read_text())
