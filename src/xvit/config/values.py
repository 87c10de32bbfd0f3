"""Plain values as the types of settings: what a setting of some type accepts, and what it expects, in words."""

import dataclasses
import json
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from xvit.utils.errors import XViTError, did_you_mean

_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WORDS = {
    bool: ("true or false", ""),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    NoneType: ("null", ""),
}
_HINTS = {"precision": "fp32 trains without mixed precision"}  # what people look for, by the name of a setting
_MAX_SHOWN = 80  # characters of a value in a message


class ValueTypeError(XViTError):
    """A value that a setting does not accept.

    Args:
        keys: where it is: the names of the settings from the outermost on, and indices of lists.
        value: what was given.
        expected: what the setting accepts, in words.
    """

    def __init__(self, keys: tuple[str | int, ...], value: Any, expected: str) -> None:
        super().__init__(keys, value, expected)
        self.keys, self.value, self.expected = keys, value, expected

    def __str__(self) -> str:
        return self.explain(to_text(self.value))

    def explain(self, written: str) -> str:
        """The message, with the value as it was written."""
        name = str(self.keys[-1]).rpartition(".")[2] if self.keys else ""
        hint = f"; {_HINTS[name]}" if name in _HINTS else ""
        where = f"{'.'.join(map(str, self.keys))}: " if self.keys else ""
        return f"{where}{shorten(written)}: expected {self.expected}{hint}"


def convert(kind: Any, value: Any, keys: tuple[str | int, ...] = ()) -> Any:
    """A plain value as the type of a setting.

    Numbers and switches may be text, such as 1e-3 or yes, which YAML 1.1 does not read as such. A whole number may be
    written as 1e2 or 100.0.

    Args:
        kind: bool, int, float, str, None, a Literal of texts, a list, tuple or dict of these, or a union.
        value: as read from YAML or JSON.
        keys: where the value is, for messages.

    Raises:
        ValueTypeError: the value is of another type.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _convert_union(kind, value, keys)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        kinds = [inner[0]] * len(value) if origin is list or inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return origin(convert(item_kind, item, (*keys, index)) for index, (item_kind, item) in pairs)
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: convert(inner[1], item, (*keys, key)) for key, item in value.items()}
    if origin is Literal and isinstance(value, str):
        if value in inner:
            return value
        near = did_you_mean(value, inner)
        raise ValueTypeError(keys, value, f"{describe(kind)}{near and '.'}{near}")
    if (kind is str and isinstance(value, str)) or (kind is NoneType and value is None):
        return value
    if kind is bool:
        switch = _BOOLS.get(value.lower()) if isinstance(value, str) else value
        if isinstance(switch, bool):
            return switch
    if kind in (int, float):
        number = _read_number(value)
        if number is not None and (kind is float or number == int(number)):
            return kind(number)
    quotes = ", in quotes" if kind is str and isinstance(value, bool | int | float) else ""
    raise ValueTypeError(keys, value, f"{describe(kind)}{quotes}")


def _convert_union(kind: Any, value: Any, keys: tuple[str | int, ...]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if any(type(value) is member for member in get_args(kind)) and not (is_number and _read_number(value) is None):
        return value
    errors = []
    for member in get_args(kind):
        try:
            return convert(member, value, keys)
        except ValueTypeError as error:
            errors.append(error)
    deepest = max(errors, key=lambda error: len(error.keys))
    raise deepest if len(deepest.keys) > len(keys) else ValueTypeError(keys, value, describe(kind))


def _read_number(value: Any) -> int | float | None:
    """The number that a value is or spells; None if it is none, or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a whole number of 400 digits
        return None
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int) else number


def describe(kind: Any) -> str:
    """What a setting of a type expects, in words, such as "a whole number" or "fp32, bf16 or fp16"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _join([describe(member) for member in inner])
    if origin is Literal:
        return _join(list(map(str, inner)))
    if origin in (tuple, list):
        numbers = "" if origin is list or inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {numbers}{_plural(inner[0])}"
    if origin is dict:
        return f"a mapping of names to {_plural(inner[1])}"
    if dataclasses.is_dataclass(kind):
        return "a mapping of settings"
    return _WORDS[kind][0]


def _plural(kind: Any) -> str:
    return _WORDS[kind][1] if kind in _WORDS else "values"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def to_text(value: Any) -> str:
    """A plain value as it would be written in YAML or JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def shorten(text: str) -> str:
    """A value in one line of a message; an empty one is named as such."""
    line = " ".join(text.split())
    return (line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]} ...") or "(empty)"
