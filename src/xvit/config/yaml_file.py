"""YAML files as plain values, with the line of each value.

Numbers are those of YAML 1.2, unlike PyYAML's: 1e-3 is a number, 010 is ten, and 12:30 and 2026-01-31 are text.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import check_nesting
from xvit.utils.text import read_text

_SCALARS = [  # tag, pattern, first characters
    ("bool", r"(?i:true|false|yes|no|on|off)", "tTfFyYnNoO"),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(?i:\.inf|\.nan)", "-+.0123456789"),
    ("null", r"~|(?i:null)|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
]
_MAX_VALUES = 10_000  # of a file, each alias written out: a few lines of them can stand for billions


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, PyYAML's name: how text becomes a number, ...

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. An error if a key is given twice: PyYAML would take the last value."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f'"{key.value}" is given twice', key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """The plain values in a text.

    Raises:
        yaml.YAMLError: not YAML, nested too deeply, or too many values once its aliases are written out.
    """
    try:
        values = yaml.load(text, _Loader)
        check_nesting(values, max_values=_MAX_VALUES)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except Exception as error:  # PyYAML raises many kinds, such as for a list as a key
        raise yaml.YAMLError(str(error)) from None
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        XViTError: no such file, not YAML, not a mapping, a key that is given twice.
    """
    text = read_text(path)
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        reason = one_line(error).replace('in "<unicode string>", ', "in ")
        raise XViTError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(values, dict):
        found = "an empty file" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise XViTError(f"{path}: expected a mapping of settings, got {found}")
    return values


def locate(path: str | Path, keys: Sequence[str | int]) -> tuple[int, str]:
    """The line of a value in a YAML file that can be read, from 1, and its text as it is written there.

    Args:
        path: the file.
        keys: names of settings from the outermost on, and indices of lists.
    """
    text = read_text(path)
    node: Any = yaml.compose(text, _Loader)
    for key in keys:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(key)]
        else:
            node = next(value for name, value in node.value if name.value == key)
    return node.start_mark.line + 1, text[node.start_mark.index : node.end_mark.index]
