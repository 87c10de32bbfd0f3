"""A trained model on disk: a directory of model.safetensors, config.json, preprocessor_config.json and a model card,
README.md. No pickle, and nothing in it is executed.

config.json holds {"format", "model", "clip", "labels", "provenance"}: all that is needed to build the model again, to
turn a video into its input, to name its outputs, and to know where it comes from. `XViT.save_pretrained` and
`XViT.from_pretrained` are the way in and out; here is what they read and write. preprocessor_config.json says of the
clip once more what transformers' Auto classes look for there (`xvit.transformers`); nothing here reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from xvit.checkpoint.model_card import model_card
from xvit.config import ClipSpec, Labels, ModelConfig, from_dict, labels_by_task, to_dict
from xvit.utils.errors import XViTError, did_you_mean
from xvit.utils.files import atomic_directory, previous_version

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PREPROCESSOR = "preprocessor_config.json"
EXPORTED = "export.json"  # in place of the weights, in the directory of an exported model (`xvit.export.runtime`)
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which transformers keeps
# What transformers writes beside our keys: it tells a reader of ours nothing.
OF_TRANSFORMERS = ("architectures", "dtype", "model_type", "transformers_version")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What config.json says of a model.

    Args:
        model: to build it.
        clip: how a video becomes its input.
        labels: the names of its classes; a dict of such lists for several tasks.
        provenance: recipe, data, metrics, versions: whatever its writer noted, plain values.

    Raises:
        XViTError: labels that do not fit the model's classes.
    """

    model: ModelConfig
    clip: ClipSpec
    labels: Labels
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for names in labels_by_task(self.labels).values():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise XViTError(
                    f"labels={self.labels!r:.200}: expected a list of class names, or a dict of tasks to lists"
                )
        named: dict[str | None, int] = {task: len(names) for task, names in labels_by_task(self.labels).items()}
        if named != self.model.tasks:
            raise XViTError(f"labels for {_count(named)} classes, but a model of {_count(self.model.tasks)}")
        if self.clip.left_open:
            raise XViTError(f"clip: no {', '.join(self.clip.left_open)}")

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json."""
        return {
            "format": FORMAT,
            # model_type is for transformers' Auto classes; the weights are here, so there is nothing to fetch.
            "model_type": "xvit",
            "model": to_dict(self.model) | {"pretrained": False, "checkpoint_path": ""},
            "clip": to_dict(self.clip),
            "labels": self.labels,
            "provenance": dict(self.provenance),
        }


def write(directory: str | Path, description: Description, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint directory, replacing an older one whole: at no moment is there half of one.

    preprocessor_config.json is always there too, so that the Auto classes of transformers can open the directory
    whether or not transformers is installed where it was written.

    Args:
        directory: where; its parents are made.
        description: of the model.
        tensors: its state, on any device.

    Raises:
        XViTError: the directory holds other things than a checkpoint, settings or provenance that JSON cannot hold.
    """
    directory = Path(directory).resolve()
    ours = {WEIGHTS, CONFIG, CARD, PREPROCESSOR}
    if directory.exists() and not directory.is_dir():
        raise XViTError(f"{directory}: a file; expected a directory for the checkpoint, or a new name")
    if others := sorted(path.name for path in directory.glob("*") if path.name not in ours):
        raise XViTError(f"{directory}: holds other things than a checkpoint ({others[0]}): take a directory of its own")
    try:
        config = json.dumps(description.to_dict(), indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise XViTError(f"settings or provenance that {CONFIG} cannot hold: {error}") from None
    with atomic_directory(directory) as beside:
        state = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        save_file(state, beside / WEIGHTS, metadata={"format": "pt"})
        (beside / CONFIG).write_text(config, encoding="utf-8")
        (beside / WEIGHTS).chmod((beside / CONFIG).stat().st_mode)  # safetensors lets nobody but the owner read
        write_preprocessor(beside, description.clip)
        (beside / CARD).write_text(model_card(description.to_dict()), encoding="utf-8")


def preprocessor(clip: ClipSpec) -> dict[str, Any]:
    """The clip in the words of transformers, from which `xvit.transformers.XViTVideoProcessor` makes it again."""
    return {
        "num_frames": clip.num_frames,
        "sampling": clip.sampling,
        "stride": clip.stride,
        "size": {"shortest_edge": clip.image_size},
        "resample": RESAMPLE[clip.interpolation],
        "image_mean": list(clip.mean),
        "image_std": list(clip.std),
    }


def write_preprocessor(directory: Path, clip: ClipSpec) -> None:
    """Write preprocessor_config.json."""
    (directory / PREPROCESSOR).write_text(json.dumps(preprocessor(clip), indent=2) + "\n", encoding="utf-8")


def find(source: str | Path, revision: str | None = None) -> Path:
    """The checkpoint directory of that path, or, where there is none, of that name on the Hugging Face Hub.

    A path below an existing folder is never looked for on the Hub.

    Args:
        source: a directory, or an `owner/name` of the Hub; what is in its local cache needs no network.
        revision: of the Hub's repository.

    Raises:
        XViTError: there is none, or what is there is not a checkpoint directory.
    """
    path = Path(source)
    if not path.exists() and previous_version(path).is_dir():
        return previous_version(path)  # its writer was killed between two renames
    if not path.exists():
        path = _fetch(str(source), revision)
    if not path.is_dir():
        raise XViTError(f"{path}: a file; expected a checkpoint directory holding {WEIGHTS} and {CONFIG}")
    missing = [name for name in (WEIGHTS, CONFIG) if not (path / name).is_file()]
    if WEIGHTS in missing and (path / EXPORTED).is_file():
        raise XViTError(f"{path}: an exported model, which xvit predict and eval run; expected the checkpoint itself")
    if missing:
        inner = next((name for name in ("best", "last") if (path / name / CONFIG).is_file()), None)
        hint = f'. It holds a training run: did you mean "{path / inner}"?' if inner else ""
        if not inner and (path / "state").is_dir():
            hint = ". It holds a training run that was stopped before its first checkpoint: go on with it by --resume"
        raise XViTError(f"{path}: not a checkpoint directory, {' and '.join(missing)} missing{hint}")
    return path


def _fetch(name: str, revision: str | None) -> Path:
    local = f"{name}: no such checkpoint directory"
    parts = Path(name).parts
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise XViTError(local) from None
    if len(parts) != 2 or Path(parts[0]).exists():
        raise XViTError(local)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise XViTError(f"{local}, and none on the Hugging Face Hub ({reason})") from None


def read_description(directory: Path) -> Description:
    """What config.json of a checkpoint directory says.

    Raises:
        XViTError: not a config of ours, newer than this version, an unknown key or a wrong value.
    """
    path = directory / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise XViTError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise XViTError(f'{path}: not a config of an xvit checkpoint (no "format" number in it)')
    check_format(values["format"], path)
    expected = ("format", "model", "clip", "labels", "provenance")
    for key in values:
        if key not in expected + OF_TRANSFORMERS:
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
    model = from_dict(
        ModelConfig, {**_mapping(values, "model", path), "pretrained": False, "checkpoint_path": ""}, path
    )
    clip = from_dict(ClipSpec, _mapping(values, "clip", path), path)
    try:
        return Description(model=model, clip=clip, labels=labels, provenance=provenance)
    except XViTError as error:
        raise XViTError(f"{path}: {error}") from None


def check_format(number: int, source: str | Path) -> None:
    """Raise `XViTError` for a format that is newer than this version of xvit."""
    if number > FORMAT:
        raise XViTError(f"{source}: of format {number}, this version of xvit reads up to {FORMAT}: pip install -U xvit")


def _mapping(values: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    if not isinstance(values[key], dict):
        raise XViTError(f'{path}: key "{key}": expected a mapping, got {values[key]!r}')
    found: dict[str, Any] = values[key]
    return found


def read_tensors(directory: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a checkpoint directory in float32, after a look at their names and shapes.

    Raises:
        XViTError: a damaged file; tensors missing, unexpected or of a wrong shape.
    """
    path = directory / WEIGHTS
    found = tensor_shapes(path)
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
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise XViTError(f"{path}: {name} of {tensor.dtype}: expected floating point")
    return {name: tensor.float() for name, tensor in tensors.items()}


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, without reading the tensors.

    Raises:
        XViTError: a damaged file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise XViTError(f"{path}: not readable as safetensors, damaged or cut off: {error}") from None


def _first(names: list[str], number: int = 3) -> str:
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def _count(tasks: dict[str | None, int]) -> str:
    return str(tasks[None]) if None in tasks else str(tasks)
