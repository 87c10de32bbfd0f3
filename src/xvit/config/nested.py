"""Nested settings: by dotted names, overridden by others, and compared."""

import json
from collections.abc import Collection, Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names: {"model": {"window": 1}} gives {"model.window": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[leaf] = value
    return nested


def merge(values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings overridden by others; those that the others do not have stay."""
    merged = dict(values)
    for key, value in other.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def describe_change(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """The first of the nested settings that changed, such as "train.lr was 0.1 and is now 0.2"; empty if none did.

    Args:
        before: the nested settings, as they were.
        now: as they are.
        ignored: dotted names of settings that do not count.
    """
    old, new = flatten(before), flatten(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and name not in ignored:
            return f"{name} was {json.dumps(old.get(name))} and is now {json.dumps(new.get(name))}"
    return ""
