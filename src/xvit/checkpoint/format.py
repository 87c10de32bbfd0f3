"""A trained model on disk: a directory of model.safetensors, config.json, preprocessor_config.json and README.md.

config.json holds {"format", "model", "clip_spec", "class_names", "provenance"}: everything that is needed to build the
model, to turn a video into its input, to name its outputs, and to tell where it comes from. preprocessor_config.json
repeats the clip spec in the terms of transformers' Auto classes (`xvit.transformers`); xvit does not read it. There is
no pickle in a checkpoint, and reading one never executes code.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from xvit.checkpoint.model_card import model_card
from xvit.config import (
    ClassNames,
    ClipSpec,
    ModelConfig,
    as_task_dict,
    from_dict,
    stored_clip_spec,
    to_dict,
    unwrap_single_task,
)
from xvit.utils.checkpoint_path import CARD, CONFIG, WEIGHTS
from xvit.utils.errors import XViTError, did_you_mean, one_line
from xvit.utils.files import atomic_directory, read_json
from xvit.utils.text import is_utf8

FORMAT = 2
PREPROCESSOR = "preprocessor_config.json"
_MAX_MISSING_LAYERS = 16  # that are built to name their tensors
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which transformers stores
TRANSFORMERS_KEYS = ("architectures", "dtype", "model_type", "transformers_version")  # which it adds to config.json


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """What config.json says about a model.

    Args:
        model: the settings that build it.
        clip_spec: how a video becomes its input.
        class_names: the names of its classes; a dict of such lists for several tasks.
        provenance: recipe, data, metrics, versions: whatever the writer recorded, as plain values.

    Raises:
        XViTError: class names that do not match the number of classes, an incomplete clip spec.
    """

    model: ModelConfig
    clip_spec: ClipSpec
    class_names: ClassNames
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = as_task_dict(self.class_names)
        for task_names in names.values():
            if not isinstance(task_names, list) or not all(isinstance(name, str) for name in task_names):
                raise XViTError(
                    f"class_names={self.class_names!r:.200}: expected a list of names, or a dict of tasks to lists"
                )
            for name in task_names:
                if not is_utf8(name):
                    raise XViTError(f'class "{name}": the name is not valid UTF-8: rename the class')
        numbers = {task: len(task_names) for task, task_names in names.items()}
        if numbers != self.model.tasks:
            given, expected = unwrap_single_task(numbers), unwrap_single_task(self.model.tasks)
            raise XViTError(f"class_names: names of {given} classes, but the model has {expected}")
        if self.clip_spec.open_fields:
            raise XViTError(f"clip_spec: {', '.join(self.clip_spec.open_fields)} missing")

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json."""
        return {
            "format": FORMAT,
            "model_type": "xvit",  # for transformers' Auto classes
            "model": to_dict(self.model),
            "clip_spec": to_dict(self.clip_spec),
            "class_names": self.class_names,
            "provenance": dict(self.provenance),
        }


def write_checkpoint(directory: str | Path, metadata: CheckpointMetadata, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint directory atomically, replacing an older one.

    preprocessor_config.json is always written, so that the Auto classes of transformers can open the directory whether
    or not transformers is installed where it was written.

    Args:
        directory: its parents are created.
        metadata: of the model.
        tensors: its state dict, on any device.

    Raises:
        XViTError: the directory holds other files; settings or provenance that JSON cannot hold.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise XViTError(f"{directory}: is a file; expected a directory for the checkpoint, or a new name")
    ours = {WEIGHTS, CONFIG, CARD, PREPROCESSOR}
    if others := sorted(path.name for path in directory.glob("*") if path.name not in ours):
        raise XViTError(f"{directory}: holds files that are not of a checkpoint ({others[0]}): choose a new directory")
    files = checkpoint_files(metadata)
    with atomic_directory(directory) as tmp_path:
        state = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)


def checkpoint_files(metadata: CheckpointMetadata) -> dict[str, bytes]:
    """The contents of a checkpoint's files other than the weights, by name: CONFIG, PREPROCESSOR, CARD.

    Raises:
        XViTError: settings or provenance that JSON or UTF-8 cannot hold.
    """
    try:
        texts = {
            CONFIG: json.dumps(metadata.to_dict(), indent=2),
            PREPROCESSOR: json.dumps(preprocessor_config(metadata.clip_spec), indent=2),
            CARD: model_card(metadata.to_dict()).removesuffix("\n"),
        }
        return {name: f"{text}\n".encode() for name, text in texts.items()}
    except UnicodeEncodeError as error:
        line = error.object[: error.end].splitlines()[-1] + error.object[error.end :].partition("\n")[0]
        shown = line.encode(errors="backslashreplace").decode()
        raise XViTError(f"a checkpoint cannot hold names that are not UTF-8: {shown:.300}") from None
    except (TypeError, ValueError) as error:
        raise XViTError(f"settings or provenance cannot be written to {CONFIG}: {error}") from None


def preprocessor_config(clip_spec: ClipSpec) -> dict[str, Any]:
    """The contents of preprocessor_config.json, which `xvit.transformers.XViTVideoProcessor` reads."""
    return {
        "num_frames": clip_spec.num_frames,
        "sampling": clip_spec.sampling,
        "stride": clip_spec.stride,
        "frame_rate": clip_spec.frame_rate,
        "size": {"shortest_edge": clip_spec.image_size},
        "resample": RESAMPLE[clip_spec.interpolation],
        "image_mean": list(clip_spec.mean),
        "image_std": list(clip_spec.std),
    }


def read_metadata(directory: Path) -> CheckpointMetadata:
    """Read config.json of a checkpoint directory.

    Raises:
        XViTError: not a config of xvit, one of another version, an unknown key or a wrong value.
    """
    path = directory / CONFIG
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise XViTError(f'{path}: not the config of an xvit checkpoint (it has no "format" number)')
    check_format(values["format"], path)
    expected = {"format": int, "model": dict, "clip_spec": dict, "class_names": list | dict, "provenance": dict}
    for key in values:
        if key not in (*expected, *TRANSFORMERS_KEYS):
            raise XViTError(f'{path}: unknown key "{key}".{did_you_mean(key, expected)} Known: {", ".join(expected)}')
    for key, kind in expected.items():
        if key not in values:
            raise XViTError(f'{path}: key "{key}" is missing')
        if not isinstance(values[key], kind):
            form = "a list of class names, or a mapping of tasks to lists" if key == "class_names" else "a mapping"
            raise XViTError(f'{path}: key "{key}": expected {form}, got {values[key]!r:.200}')
    model = from_dict(ModelConfig, values["model"], path)
    clip_spec = stored_clip_spec(values["clip_spec"], path)
    try:
        return CheckpointMetadata(
            model=model, clip_spec=clip_spec, class_names=values["class_names"], provenance=values["provenance"]
        )
    except XViTError as error:
        raise XViTError(f"{path}: {error}") from None


def check_format(number: int, source: str | Path) -> None:
    """Raise `XViTError` unless this version of xvit reads that format."""
    if number > FORMAT:
        raise XViTError(
            f"{source}: format {number!s:.20}; this version of xvit reads format {FORMAT}: pip install -U xvit"
        )
    if number < FORMAT:
        raise XViTError(
            f"{source}: format {number}, written by an earlier version of xvit, whose settings had other names. "
            "Convert it: xvit convert DIRECTORY --output NEW_DIRECTORY"
        )


def check_num_layers(directory: Path, model: ModelConfig) -> None:
    """Compare the numbers of layers that config.json states with the tensors, before so many layers are built.

    Raises:
        XViTError: a damaged file; far more layers. `read_tensors` names the tensors of a few missing layers.
    """
    path = directory / WEIGHTS
    stated = {"backbone.blocks.": model.backbone_kwargs.get("depth")}
    if model.temporal_head == "attention":
        stated["temporal_head.blocks."] = model.advanced.temporal_layers
    names = tensor_shapes(path)
    for prefix, number in stated.items():
        found = len({name.split(".")[2] for name in names if name.startswith(prefix)})
        if isinstance(number, int) and number > found + _MAX_MISSING_LAYERS:
            text = f"{found} layers {prefix}*, but {CONFIG} describes {number}"
            raise XViTError(f"{path}: tensors do not match the model of {CONFIG}: {text}")


def read_tensors(directory: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint directory as float32, after checking their names and shapes.

    Raises:
        XViTError: a damaged file; missing or unexpected tensors, wrong shapes, NaN or infinite values.
    """
    path = directory / WEIGHTS
    shapes = tensor_shapes(path)
    common = [name for name in expected if name in shapes]
    problems = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [name for name in shapes if name not in expected],
        "of a wrong shape": [f"{n}: {shapes[n]}, expected {expected[n]}" for n in common if shapes[n] != expected[n]],
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in problems.items()
            if names
        )
        raise XViTError(f"{path}: tensors do not match the model of {CONFIG}: {text}")
    return read_tensor_file(path)


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, as float32.

    Raises:
        XViTError: a damaged file; a tensor that is not floating point, or has NaN or infinite values.
    """
    with safetensors_errors(path):
        tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise XViTError(f"{path}: {name} is of {tensor.dtype}: expected floating point")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise `XViTError` if a tensor has NaN or infinite values; the message names it."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise XViTError(f"{source}: {name} has NaN or infinite values: the weights are damaged")


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, without reading the tensors.

    Raises:
        XViTError: a damaged file.
    """
    with safetensors_errors(path), safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping


@contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Turn any error while a safetensors file is read into an `XViTError` that names it."""
    try:
        yield
    except Exception as error:  # of the library, of torch for types that it does not have, of the system
        raise XViTError(f"{path}: damaged or truncated, not readable as safetensors: {one_line(error)}") from None
