"""A trained model on disk: a directory of model.safetensors and config.json. No pickle, nothing in it is executed.

config.json holds {"format", "model", "clip", "labels", "provenance"}: all that is needed to build the model again, to
turn a video into its input, to name its outputs, and to know where it comes from.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from xvit.config import ClipSpec, ModelConfig, from_dict, to_dict
from xvit.errors import XViTError, did_you_mean
from xvit.models.xvit import XViT

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"

Labels = list[str] | dict[str, list[str]]


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to use it.

    Args:
        model: in eval mode when loaded.
        clip: how a video becomes its input.
        labels: the names of its classes; a dict of such lists for several tasks.
        provenance: recipe, data, metrics, versions: whatever its writer noted, plain values.

    Raises:
        XViTError: labels that do not fit the model's classes.
    """

    model: XViT
    clip: ClipSpec
    labels: Labels
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named: dict[str | None, int] = {task: len(names) for task, names in labels_by_task(self.labels).items()}
        if named != self.model.config.tasks:
            raise XViTError(f"labels for {_count(named)} classes, but a model of {_count(self.model.config.tasks)}")


def labels_by_task(labels: Labels) -> dict[str | None, list[str]]:
    """The labels of each task; the only task of a plain list is named None, as in `ModelConfig.tasks`."""
    return {task: names for task, names in labels.items()} if isinstance(labels, dict) else {None: labels}


def save(directory: str | Path, model: XViT, *, clip: ClipSpec, labels: Labels, provenance: Mapping[str, Any]) -> None:
    """Write a checkpoint directory, replacing an older one whole: at no moment is there half of one.

    Args:
        directory: where; its parents are made.
        model: its weights are read from any device.
        clip: how a video becomes its input.
        labels: the names of its classes.
        provenance: plain values that JSON can hold.

    Raises:
        XViTError: labels that do not fit the model's classes.
    """
    Checkpoint(model, clip, labels, provenance)
    config = {
        "format": FORMAT,
        "model": to_dict(model.config) | {"pretrained": False},  # the weights are here: nothing to fetch on loading
        "clip": to_dict(clip),
        "labels": labels,
        "provenance": provenance,
    }
    with written_whole(directory) as beside:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(directory: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint directory.

    Args:
        directory: as `save` wrote it.
        device: where the model goes.

    Raises:
        XViTError: no such directory, not a checkpoint, a config that is not ours or newer than this version, tensors
            missing, unexpected or of a wrong shape, a damaged file, a device that is not there.
    """
    directory = _find(Path(directory))
    config_file, weights_file = directory / CONFIG, directory / WEIGHTS
    model_config, clip, labels, provenance = _read_config(config_file)
    try:
        with torch.device("meta"):  # no time spent on initial weights that are replaced at once
            model = XViT(model_config)
    except XViTError as error:
        raise XViTError(f"{config_file}: {error}") from None
    _check_tensors(weights_file, model)
    model.load_state_dict(load_file(weights_file), assign=True)
    model = model.to(usable_device(device)).eval()
    try:
        return Checkpoint(model, clip, labels, provenance)
    except XViTError as error:
        raise XViTError(f"{config_file}: {error}") from None


def usable_device(device: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        XViTError: there is none here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise XViTError(f"device={str(device)!r}: cannot be used here: {str(error).splitlines()[0]}") from None


@contextmanager
def written_whole(directory: str | Path) -> Iterator[Path]:
    """An empty directory beside `directory`, to be filled; on leaving without an error it takes that name.

    An older `directory` is moved out of the way and deleted only when the new one stands. A reader that comes in the
    instant between the two renames finds the older one through `_find`.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside, older = directory.with_name(f".{directory.name}.writing"), _older(directory)
    if beside.exists():
        shutil.rmtree(beside)  # left by a process that was killed
    beside.mkdir()
    yield beside
    if directory.exists():
        if older.exists():
            shutil.rmtree(older)
        directory.rename(older)
    beside.rename(directory)
    if older.exists():
        shutil.rmtree(older)


def _older(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.older")


def _find(directory: Path) -> Path:
    if not directory.exists() and _older(directory).is_dir():
        return _older(directory)  # its writer was killed between two renames
    if not directory.exists():
        raise XViTError(f"{directory}: no such checkpoint directory")
    if not directory.is_dir():
        raise XViTError(f"{directory}: a file; expected a checkpoint directory holding {WEIGHTS} and {CONFIG}")
    missing = [name for name in (WEIGHTS, CONFIG) if not (directory / name).is_file()]
    if missing:
        inner = next((name for name in ("best", "last") if (directory / name / CONFIG).is_file()), None)
        hint = f'. It holds a training run: did you mean "{directory / inner}"?' if inner else ""
        raise XViTError(f"{directory}: not a checkpoint directory, {' and '.join(missing)} missing{hint}")
    return directory


def _read_config(path: Path) -> tuple[ModelConfig, ClipSpec, Labels, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise XViTError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise XViTError(f'{path}: not a config of an xvit checkpoint (no "format" number in it)')
    if values["format"] > FORMAT:
        raise XViTError(
            f"{path}: of format {values['format']}, this version of xvit reads up to {FORMAT}: pip install -U xvit"
        )
    expected = ("format", "model", "clip", "labels", "provenance")
    for key in values:
        if key not in expected:
            raise XViTError(f'{path}: unknown key "{key}".{did_you_mean(key, expected)} Known: {", ".join(expected)}')
    for key in expected:
        if key not in values:
            raise XViTError(f'{path}: key "{key}" is missing')
    labels, provenance = values["labels"], values["provenance"]
    for names in labels.values() if isinstance(labels, dict) else [labels]:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise XViTError(f'{path}: key "labels": expected a list of class names, or a mapping of tasks to lists')
    if not isinstance(provenance, dict):
        raise XViTError(f'{path}: key "provenance": expected a mapping, got {provenance!r}')
    model = from_dict(ModelConfig, {**_mapping(values, "model", path), "pretrained": False}, path)
    return model, from_dict(ClipSpec, _mapping(values, "clip", path), path), labels, provenance


def _mapping(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    if not isinstance(values[key], dict):
        raise XViTError(f'{path}: key "{key}": expected a mapping, got {values[key]!r}')
    found: dict[str, Any] = values[key]
    return found


def _check_tensors(path: Path, model: XViT) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise XViTError(f"{path}: not readable as safetensors, damaged or cut off: {error}") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    common = [name for name in expected if name in found]
    if wrong := [f"{n}: {found[n]}, expected {expected[n]}" for n in common if found[n] != expected[n]]:
        problems.append(f"{len(wrong)} of a wrong shape ({_first(wrong)})")
    if problems:
        raise XViTError(f"{path}: tensors do not fit the model of {CONFIG}: {'; '.join(problems)}")


def _first(names: list[str], number: int = 3) -> str:
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def _count(tasks: dict[str | None, int]) -> str:
    return str(tasks[None]) if None in tasks else str(tasks)
