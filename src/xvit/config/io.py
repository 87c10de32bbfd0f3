"""Configs from and to the plain values of YAML and JSON. Every name and type is checked."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from xvit.config.legacy import new_name
from xvit.utils.errors import XViTError, did_you_mean, one_line

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
    import jsonargparse  # here: it takes 0.2 s, and `import xvit` should not wait for it

    _check_keys(cls, values, str(source))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=cls, default=cls())
    try:
        config: C = parser.instantiate(parser.parse_object({"config": dict(values)})).config
    except (XViTError, jsonargparse.ArgumentError) as error:
        reason = " ".join(str(error).replace('Parser key "config.', 'key "').split())
        reason = re.sub(r"Does not validate against any of .* Given value: ", "unexpected value: ", reason)
        raise XViTError(f"{source}: {reason}") from None
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        XViTError: no such file, not YAML, not a mapping.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise XViTError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise XViTError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise XViTError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def _check_keys(cls: type, values: Any, source: str) -> None:
    if not isinstance(values, Mapping):
        raise XViTError(f"{source}: expected a mapping of {cls.__name__} settings, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields and (renamed := new_name(cls.__name__, key)):
            raise XViTError(
                f'{source}: written for an earlier version of xvit: "{key}" in {cls.__name__} is now {renamed}. '
                "Convert the recipe or checkpoint: xvit convert SOURCE --output NEW"
            )
        if key not in fields:
            raise XViTError(
                f'{source}: unknown key "{key}" in {cls.__name__}.{did_you_mean(key, fields)} '
                f"Known: {', '.join(sorted(fields))}"
            )
        inner = fields[key].type
        if value is None:  # jsonargparse accepts null for every type
            raise XViTError(f'{source}: key "{key}" in {cls.__name__}: expected a value, got null')
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            _check_keys(inner, value, source)
