"""JSON that no program should believe: each reader answers with one line that names the file."""

import json
from functools import partial

import numpy as np
import pytest

from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit.checkpoint import read_metadata
from xvit.checkpoint.legacy import upgrade_checkpoint
from xvit.config import DataConfig
from xvit.data.annotations import load_splits
from xvit.data.tools.resize_record import _read as read_resize_record
from xvit.experiments.common import load_state
from xvit.export.manifest import read_manifest
from xvit.features import read_features
from xvit.timeline.writers import read_ground_truth
from xvit.utils.errors import XViTError
from xvit.utils.files import check_nesting, parse_json

HOSTILE = {
    "a deep list": "[" * 100_000 + "]" * 100_000,
    "a deep mapping": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "less deep than Python's limit": "[" * 900 + "]" * 900,
    "NaN": '{"format": NaN}',
    "infinite": '{"format": -Infinity}',
    "5000 digits": '{"format": ' + "9" * 5000 + "}",
    "400 digits": '{"format": ' + "9" * 400 + "}",
    "1e400": '{"format": 1e400}',
    "cut short": '{"format": ',
    "not UTF-8": b"\xff\xfe{}\x00",
    "empty": "",
}


def read_npy_metadata(path):
    np.save(path.with_suffix(""), np.zeros((2, 3), np.float32))
    read_features(path.with_suffix(""))


READERS = {
    "config.json": lambda path: read_metadata(path.parent),
    "export.json": lambda path: read_manifest(path.parent),
    "any.json": lambda path: load_state(path, parse=lambda values: values["format"]["name"]),
    "f.npy.json": read_npy_metadata,
    "truth.json": partial(read_ground_truth, class_names=["a"]),
    "ssv2.json": lambda path: load_splits(DataConfig(root=str(path.parent), format="ssv2", train=str(path))),
    "resized.json": partial(read_resize_record, settings={"short_side": 64}),
    "state.json": partial(load_state, parse=lambda values: values["step"] + 1),
    "old/config.json": lambda path: upgrade_checkpoint(path.parent, path.parent / "new"),
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", READERS)
def test_hostile_json_is_an_error_of_one_line(name, text, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    written = HOSTILE[text]
    path.write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises(XViTError) as caught:
        READERS[name](path)
    message = str(caught.value)
    assert str(path.with_suffix("") if name == "f.npy.json" else path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


def test_the_values_of_a_plain_text_are_kept():
    values = {"a": [1, 2.5, -3e300, "NaN", None, True], "b": {"c": 10**400}}
    assert parse_json(json.dumps(values)) == values
    deepest = "[" * 99 + "]" * 99
    assert parse_json(deepest) == json.loads(deepest)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(f"[[{deepest}]]")


def test_values_are_counted_with_their_repetitions():
    row = [1, 2]
    check_nesting([row, row, row], max_values=10)
    with pytest.raises(ValueError, match="more than 9 values"):
        check_nesting([row, row, row], max_values=9)
    endless = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="nested too deeply"):
        check_nesting(endless)


def test_a_checkpoint_with_deep_provenance_is_refused_too(tmp_path):
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "a")
    config = tmp_path / "a/config.json"
    config.write_text(
        config.read_text().replace('"provenance": {}', '"provenance": {"a": ' + "[" * 500 + "]" * 500 + "}")
    )
    with pytest.raises(XViTError, match=r"config\.json: not readable as JSON: nested too deeply"):
        read_metadata(tmp_path / "a")


@pytest.mark.parametrize("text", ["[NaN]", "[-Infinity]"])
def test_numbers_that_json_does_not_have(text):
    with pytest.raises(ValueError, match="is not a number in JSON"):
        parse_json(text)
