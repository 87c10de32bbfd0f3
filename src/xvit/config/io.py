"""Configs from and to the plain values of YAML and JSON. Every name and type is checked."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xvit.config.clip import ClipSpec
from xvit.config.legacy import new_name
from xvit.config.run import RunConfig
from xvit.config.values import ValueTypeError, convert, describe
from xvit.config.yaml_file import locate, read_yaml
from xvit.utils.errors import XViTError, did_you_mean

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists, numbers and strings, for YAML and JSON."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def from_dict(cls: type[C], values: Mapping[str, Any], source: str | Path) -> C:
    """Build the config `cls` from plain values, checking every name and type.

    Args:
        cls: a config class of `xvit.config`.
        values: nested plain values, as read from YAML or JSON.
        source: the file they come from, for messages.

    Raises:
        XViTError: an unknown key (with its new name or the nearest known one), a wrong type, a value out of range.
    """
    try:
        config: C = _build(cls, values, ())
    except XViTError as error:
        raise XViTError(f"{source}: {error}") from None
    return config


def read_config(cls: type[C], path: str | Path) -> C:
    """Read a config from a YAML file. Raises as `read_yaml` and `from_dict` do, with the line of a wrong value."""
    values = read_yaml(path)
    try:
        config: C = _build(cls, values, ())
    except ValueTypeError as error:
        line, written = locate(path, error.keys)
        raise XViTError(f"{path} line {line}: {error.explain(written)}") from None
    except XViTError as error:
        raise XViTError(f"{path}: {error}") from None
    return config


def stored_clip_spec(values: Mapping[str, Any], source: str | Path) -> ClipSpec:
    """The clip spec in a stored file, as `from_dict`. Without a `frame_rate`, from before that field: frames count."""
    with_rate = {"frame_rate": None, **values} if isinstance(values, Mapping) else values
    return from_dict(ClipSpec, with_rate, source)


def stored_recipe(values: Mapping[str, Any], source: str | Path) -> RunConfig:
    """The recipe of a run that was started, as `from_dict`. Without a `clip.frame_rate`, as in `stored_clip_spec`."""
    recipe = from_dict(RunConfig, values, source)
    if "frame_rate" in values.get("clip", {}):
        return recipe
    return dataclasses.replace(recipe, clip=dataclasses.replace(recipe.clip, frame_rate=None))


def _build(cls: Any, values: Any, keys: tuple[str | int, ...]) -> Any:
    if not isinstance(values, Mapping):
        raise ValueTypeError(keys, values, describe(cls))
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise XViTError(_explain_unknown(cls, (*keys, key), fields))
        kind: Any = fields[key].type
        inner = (*keys, key)
        arguments[key] = _build(kind, value, inner) if dataclasses.is_dataclass(kind) else convert(kind, value, inner)
    return cls(**arguments)


def _explain_unknown(cls: type, keys: Sequence[str | int], known: Mapping[str, Any]) -> str:
    dotted, key = ".".join(map(str, keys)), str(keys[-1])
    if renamed := new_name(cls.__name__, key):
        return (
            f'written for an earlier version of xvit: "{dotted}" is now {renamed}. '
            "Convert the recipe or checkpoint: xvit convert SOURCE --output NEW"
        )
    return f'unknown key "{dotted}".{did_you_mean(key, known)} Known: {", ".join(sorted(known))}'
