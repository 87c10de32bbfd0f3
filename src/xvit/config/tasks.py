"""One task or several: inside the library a value per task is always a dict of tasks.

A model with one number of classes has one task, named `SINGLE_TASK`; at the public edge its values are not wrapped.
"""

from collections.abc import Mapping
from typing import TypeVar

ClassNames = list[str] | dict[str, list[str]]
SINGLE_TASK = "label"
T = TypeVar("T")


def as_task_dict(value: T | Mapping[str, T]) -> dict[str, T]:
    """The value of each task: a dict as it is, anything else as the value of the single task."""
    return dict(value) if isinstance(value, Mapping) else {SINGLE_TASK: value}


def unwrap_single_task(values: Mapping[str, T]) -> T | dict[str, T]:
    """The inverse of `as_task_dict`: the value of the single task, or the dict of several tasks."""
    return values[SINGLE_TASK] if SINGLE_TASK in values else dict(values)
