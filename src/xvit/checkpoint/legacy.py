"""Conversion of checkpoints of format 1 (development versions before November 2026), whose settings had other names."""

from pathlib import Path

from xvit.checkpoint.format import CheckpointMetadata
from xvit.checkpoint.weights import read_tensor_file, write_checkpoint
from xvit.config import SINGLE_TASK, ModelConfig, from_dict, stored_clip_spec
from xvit.config.legacy import upgrade_recipe
from xvit.utils.checkpoint_path import CONFIG, WEIGHTS
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import check_new_directory, parse_json
from xvit.utils.text import read_text


def upgrade_checkpoint(source: Path, output: Path) -> None:
    """Write a checkpoint directory of format 1 in the current format; the values of its tensors do not change.

    Args:
        source: a checkpoint directory.
        output: the new directory, which must not hold anything.

    Raises:
        XViTError: not a checkpoint of format 1, a damaged file, `output` is in use.
    """
    path = source / CONFIG
    try:
        values = parse_json(read_text(path))
        number = values["format"]
        if number == 1:
            clip_spec, class_names, provenance = values["clip"], values["labels"], dict(values["provenance"])
            upgraded = upgrade_recipe({"model": values["model"]})["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise XViTError(f"{path}: not the config of a checkpoint of format 1 ({one_line(error, name=True)})") from None
    if number != 1:
        raise XViTError(f"{path}: format {number!s:.20}; only format 1 needs to be converted")
    if isinstance(provenance.get("recipe"), dict):
        provenance["recipe"] = upgrade_recipe(provenance["recipe"])
    metadata = CheckpointMetadata(
        model=from_dict(ModelConfig, upgraded, path),
        clip_spec=stored_clip_spec(clip_spec, path),
        class_names=class_names,
        provenance=provenance,
    )
    tensors = read_tensor_file(source / WEIGHTS)
    if SINGLE_TASK in metadata.model.tasks:
        renamed = {f"classifier.fc.{name}": f"classifier.fc.{SINGLE_TASK}.{name}" for name in ("weight", "bias")}
        tensors = {renamed.get(name, name): tensor for name, tensor in tensors.items()}
    write_checkpoint(check_new_directory(output), metadata, tensors)
