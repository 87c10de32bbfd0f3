"""A trained model on disk: a directory of model.safetensors, config.json, preprocessor_config.json and README.md.

config.json holds {"format", "model", "clip_spec", "class_names", "provenance"}: everything that is needed to build the
model, to turn a video into its input, to name its outputs, and to tell where it comes from; and "calibration", once
`xvit calibrate` has measured it. preprocessor_config.json
repeats the clip spec in the terms of transformers' Auto classes (`xvit.transformers`); xvit does not read it. There is
no pickle in a checkpoint, and reading one never executes code.

This module does without torch; `xvit.checkpoint.weights` reads and writes the weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from xvit.checkpoint.model_card import model_card
from xvit.config import (
    SINGLE_TASK,
    Calibration,
    ClassNames,
    ClipSpec,
    ModelConfig,
    as_task_dict,
    from_dict,
    stored_clip_spec,
    to_dict,
    unwrap_single_task,
)
from xvit.utils.checkpoint_path import CARD, CONFIG
from xvit.utils.errors import XViTError, did_you_mean
from xvit.utils.files import read_json, write_json
from xvit.utils.text import is_utf8

FORMAT = 2
PREPROCESSOR = "preprocessor_config.json"
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

        calibration: of each task; empty if the model is not calibrated.

    Raises:
        XViTError: class names that do not match the number of classes, an incomplete clip spec, a calibration of other
            tasks or of a multi-label model.
    """

    model: ModelConfig
    clip_spec: ClipSpec
    class_names: ClassNames
    provenance: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)

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
        if self.calibration and (self.model.multi_label or self.calibration.keys() != self.model.tasks.keys()):
            tasks, kind = ", ".join(self.model.tasks), "multi-label " if self.model.multi_label else ""
            raise XViTError(f"calibration of {', '.join(self.calibration)}: the {kind}model has the tasks {tasks}")

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json."""
        calibration = {task: to_dict(values) for task, values in self.calibration.items()}
        return {
            "format": FORMAT,
            "model_type": "xvit",  # for transformers' Auto classes
            "model": to_dict(self.model),
            "clip_spec": to_dict(self.clip_spec),
            "class_names": self.class_names,
            "provenance": dict(self.provenance),
            **({"calibration": unwrap_single_task(calibration)} if calibration else {}),
        }


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
        if key not in (*expected, "calibration", *TRANSFORMERS_KEYS):
            known = (*expected, "calibration")
            raise XViTError(f'{path}: unknown key "{key}".{did_you_mean(key, known)} Known: {", ".join(known)}')
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
            model=model,
            clip_spec=clip_spec,
            class_names=values["class_names"],
            provenance=values["provenance"],
            calibration=stored_calibration(values.get("calibration"), model),
        )
    except XViTError as error:
        raise XViTError(f"{path}: {error}") from None


def stored_calibration(values: Any, model: ModelConfig) -> dict[str, Calibration]:
    """The calibration of each task, from the plain values in config.json; empty if there are none.

    Raises:
        XViTError: an unknown or missing key, a wrong value.
    """
    if values is None:
        return {}
    tasks = {SINGLE_TASK: values} if SINGLE_TASK in model.tasks else values
    if not isinstance(tasks, Mapping) or not all(isinstance(task, Mapping) for task in tasks.values()):
        raise XViTError(f"calibration: expected a mapping, of tasks if there are several, got {values!r:.200}")
    for task in tasks.values():
        if missing := [f.name for f in fields(Calibration) if f.name not in task]:
            raise XViTError(f'calibration: key "{missing[0]}" is missing')
    ordered = [name for name in dict.fromkeys((*model.tasks, *tasks)) if name in tasks]
    return {name: from_dict(Calibration, tasks[name], "calibration") for name in ordered}


def store_calibration(directory: Path, calibration: Mapping[str, Calibration]) -> None:
    """Write the calibration of each task to config.json of a checkpoint directory, atomically. All else stays.

    Raises:
        XViTError: not a checkpoint directory; a calibration that is not one of this model.
        WriteError: the file cannot be written.
    """
    metadata = replace(read_metadata(directory), calibration=calibration)
    write_json(directory / CONFIG, read_json(directory / CONFIG) | {"calibration": metadata.to_dict()["calibration"]})


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
