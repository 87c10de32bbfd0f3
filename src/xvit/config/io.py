"""Settings from and to plain values, as YAML and JSON hold them: every name and type is checked."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from xvit.utils.errors import XViTError, did_you_mean

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists, numbers and strings, for YAML and JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(cls: type[C], values: Mapping[str, Any], source: str | Path) -> C:
    """Build the config `cls` from plain values, checking every name and type.

    Args:
        cls: one of the config classes of this module.
        values: nested plain values, as read from YAML or JSON.
        source: the file they come from, for the error's text.

    Raises:
        XViTError: an unknown key (with the nearest known one), a wrong type, a value out of range.
    """
    import jsonargparse  # here: it takes a fifth of a second, which importing a model should not

    _check_keys(cls, values, str(source))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=cls, default=cls())
    try:
        config: C = parser.instantiate(parser.parse_object({"config": dict(values)})).config
    except (XViTError, jsonargparse.ArgumentError) as error:
        reason = " ".join(str(error).replace('Parser key "config.', 'key "').split())
        reason = re.sub(r"Does not validate against any of .* Given value: ", "not expected here: ", reason)
        raise XViTError(f"{source}: {reason}") from None
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        XViTError: no such file, not YAML, not a mapping.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise XViTError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise XViTError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise XViTError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    return values


def _check_keys(cls: type, values: Any, where: str) -> None:
    if not isinstance(values, Mapping):
        raise XViTError(f"{where}: expected a mapping of {cls.__name__} settings, got {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise XViTError(
                f'{where}: unknown key "{key}" in {cls.__name__}.{did_you_mean(key, fields)} '
                f"Known: {', '.join(sorted(fields))}"
            )
        inner = fields[key].type
        if value is None:  # the parser would let it through, whatever is expected
            raise XViTError(f'{where}: key "{key}" in {cls.__name__}: expected a value, got null')
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            _check_keys(inner, value, where)
