"""Settings from files: every field refuses what it is not, in plain words; YAML as people write it."""

import dataclasses
import json
import re
from types import UnionType
from typing import Any, Literal, Union, get_origin

import pytest
import yaml

from xvit.config import RunConfig, from_dict, read_config, read_yaml, to_dict
from xvit.utils.errors import XViTError

# Python's words for types and values, which no message may show.
_PYTHON = re.compile(r"<class|Optional|Union|NoneType|Literal\[|\bNone\b|\bTrue\b|\bFalse\b|tuple|dict|\bstr\b|\bint\b")
# What a field is not, by its kind: as written in a file, and what the message expects.
_WRONG = {
    "bool": [("maybe", "true or false"), ("2", "true or false"), ("[yes]", "true or false"), ("", "true or false")],
    "int": [("many", "a whole number"), ("1.5", "a whole number"), ("yes", "a whole number"), ("{a: 1}", "a whole")],
    "float": [("fast", "a number"), ("on", "a number"), ("[1]", "a number"), (".nan", "a number"), (".inf", "a num")],
    "str": [("no", "text, in quotes"), ("7", "text, in quotes"), ("[a, b]", "text"), ("{a: b}", "text"), ("~", "text")],
    "literal": [("no", ""), ("1", ""), ("[1]", ""), ("nonesuch", ""), ("null", "")],
    "tuple": [("0.5", "a list of"), ("yes", "a list of"), ("[a, b]", "a number"), ("{a: 1}", "a list of")],
    "dict": [("5", "a mapping of"), ("[1]", "a mapping of"), ("~", "a mapping of"), ("on", "a mapping of")],
    "group": [("5", "a mapping of settings"), ("[a]", "a mapping of settings"), ("", "a mapping of settings")],
    "union": [("{a: {b: 1}}", ""), ("[[1]]", "")],
}


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return "union"
    if dataclasses.is_dataclass(annotation):
        return "group"
    return "literal" if origin is Literal else (origin or annotation).__name__


def _fields(config_class: type = RunConfig, keys: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    found = []
    for field in dataclasses.fields(config_class):
        found.append(((*keys, field.name), _kind(field.type)))
        if dataclasses.is_dataclass(field.type):
            found += _fields(field.type, (*keys, field.name))
    return found


_CASES = [(keys, written, expected) for keys, kind in _fields() for written, expected in _WRONG[kind]]


def _nested(keys: tuple[str, ...], written: str) -> str:
    """A YAML file with one setting, in block style."""
    lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(keys)]
    return "\n".join(lines) + f" {written}\n"


@pytest.mark.parametrize(("keys", "written", "expected"), _CASES, ids=lambda value: str(value)[:40])
def test_each_field_refuses_another_type_in_plain_words(keys, written, expected, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(_nested(keys, written))
    with pytest.raises(XViTError) as caught:
        read_config(RunConfig, path)
    message = str(caught.value).removeprefix(str(path))
    assert "\n" not in message
    assert message.startswith(f" line {len(keys)}: {'.'.join(keys)}"), "names the file, the line and the field"
    assert f": {written or '(empty)'}: expected " in message or written.startswith(("[", "{"))
    assert expected in message
    assert not _PYTHON.search(message), message


def test_every_kind_of_field_is_tested():
    kinds = {kind for _, kind in _fields()}
    assert kinds == set(_WRONG)
    assert len(_CASES) > 250


@pytest.mark.parametrize("read", ["yaml", "json", "PyYAML"])
def test_values_as_people_write_them(read, tmp_path):
    """Numbers and switches that YAML 1.1 takes for text, whole numbers with an exponent or a point."""
    text = "train: {epochs: 1e2, batch_size: 16.0, lr: 1e-3, weight_decay: 5, compile: off, seed: 010}\n"
    text += "model: {causal: yes}\n"
    path = tmp_path / "recipe.yaml"
    if read == "yaml":
        path.write_text(text)
        config = read_config(RunConfig, path)
    elif read == "json":
        train = {"epochs": 1e2, "batch_size": 16.0, "lr": 1e-3, "weight_decay": 5, "compile": False, "seed": 10}
        config = from_dict(RunConfig, json.loads(json.dumps({"train": train, "model": {"causal": True}})), "x")
    else:  # whose numbers are those of YAML 1.1
        config = from_dict(RunConfig, yaml.safe_load(text.replace("010", "10")), "x")
    train = config.train
    values = (train.epochs, train.batch_size, train.lr, train.weight_decay, train.compile, train.seed)
    assert values == (100, 16, 0.001, 5.0, False, 10)
    assert list(map(type, values)) == [int, int, float, float, bool, int]
    assert config.model.causal is True


def test_precision_no_is_explained(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# a recipe\ntrain:\n  lr: 1e-3\n  precision: no\n")
    with pytest.raises(XViTError) as caught:
        read_config(RunConfig, path)
    assert str(caught.value) == (
        f"{path} line 4: train.precision: no: expected fp32, bf16 or fp16; fp32 trains without mixed precision"
    )


def test_free_values_keep_their_types(tmp_path):
    """Options of timm have any plain type: nothing is guessed there."""
    path = tmp_path / "recipe.yaml"
    kwargs = "{depth: 4, drop_path_rate: 1e-1, dynamic_img_size: no, weight_init: 'no', tag: 2026-01-31, size: [8, 16]}"
    path.write_text(f"model: {{backbone_kwargs: {kwargs}}}")
    values = read_config(RunConfig, path).model.backbone_kwargs
    expected = {"depth": 4, "drop_path_rate": 0.1, "dynamic_img_size": False, "weight_init": "no"}
    assert values == expected | {"tag": "2026-01-31", "size": [8, 16]}
    assert values["dynamic_img_size"] is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of settings, got an empty file"),
        ("- 1", "expected a mapping of settings, got a list"),
        ("fp32", "expected a mapping of settings, got a single value"),
        ("train: {lr: 1, lr: 2}", '"lr" is given twice in line 1'),
        ("train:\n  lr: 1\ntrain:\n  lr: 2\n", '"train" is given twice in line 3'),
        ("a: b: c", "not readable as YAML: mapping values are not allowed here in line 1"),
        ("train: {x: !!python/name:os.system }", "not readable as YAML"),
    ],
)
def test_files_that_are_no_settings(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(XViTError, match=re.escape(message)) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_settings_survive_a_round_trip(tmp_path):
    config = from_dict(RunConfig, {"train": {"lr": 1e-5, "loss_weights": {"no": 1}}, "data": {"root": "no"}}, "x")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert read_config(RunConfig, path) == config
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")  # as some editors save it
    assert read_config(RunConfig, path) == config


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_with_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "recipe.yaml").write_text("data:\n  root: größe\n", encoding=encoding)
    assert read_config(RunConfig, tmp_path / "recipe.yaml").data.root == "größe"
    (tmp_path / "latin.yaml").write_bytes("data:\n  root: größe\n".encode("latin-1"))
    with pytest.raises(XViTError, match=r"latin.yaml line 2: byte 0xf6 is not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
