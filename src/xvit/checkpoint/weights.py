"""The weights of a checkpoint directory: model.safetensors, written together with all else and read with checks."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from xvit.checkpoint.format import PREPROCESSOR, CheckpointMetadata, checkpoint_files
from xvit.config import ModelConfig
from xvit.utils.checkpoint_path import CARD, CONFIG, WEIGHTS
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import atomic_directory

_MAX_MISSING_LAYERS = 16  # that are built to name their tensors

_logger = logging.getLogger("xvit")


def write_checkpoint(directory: str | Path, metadata: CheckpointMetadata, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint directory atomically, replacing an older one. A calibration of other weights is left out.

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
    files = checkpoint_files(drop_stale_calibration(metadata, tensors, directory))
    with atomic_directory(directory) as tmp_path:
        state = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)


def drop_stale_calibration(
    metadata: CheckpointMetadata, tensors: Mapping[str, Tensor], directory: Path
) -> CheckpointMetadata:
    """The metadata without its calibration, and a warning in the log, if that is one of other weights."""
    if not metadata.calibration:
        return metadata
    found = weights_hash(tensors)
    if all(calibration.weights_hash == found for calibration in metadata.calibration.values()):
        return metadata
    _logger.warning("%s: the calibration is of other weights and is left out: run `xvit calibrate` again", directory)
    return replace(metadata, calibration={})


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the values of a state dict, whatever their floating point type and device: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().flatten().numpy().data)
    return digest.hexdigest()[:16]


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
