"""Values of one task or of several, as dicts of tasks."""

from typing import Any

Labels = list[str] | dict[str, list[str]]


def by_task(value: Any) -> dict[Any, Any]:
    """A value of each task; the only task of anything but a dict is named None."""
    return value if isinstance(value, dict) else {None: value}


def plain(by_task: dict[Any, Any]) -> Any:
    """The other way: the value of the only task, or the dict of several."""
    return by_task.get(None, by_task)


def labels_by_task(labels: Labels) -> dict[str | None, list[str]]:
    """The labels of each task; the only task of a plain list is named None, as in `ModelConfig.tasks`."""
    return {task: names for task, names in labels.items()} if isinstance(labels, dict) else {None: labels}
