"""Settings of format 1 (development versions before November 2026): their new names, and their conversion."""

from collections.abc import Mapping
from typing import Any

# Old dotted name -> new dotted name. Names that are not listed did not change.
RENAMED = {
    "model.pretrained": "init.pretrained",
    "model.checkpoint_path": "init.checkpoint_path",
    "model.mixed_fraction": "model.mix_ratio",
    "model.mixed": "model.advanced.mix_inputs",
    "model.layers": "model.advanced.mixing_layers",
    "model.boundary_only": "model.advanced.boundary_only",
    "model.direction": "model.causal",
    "model.grouping": "model.advanced.grouping",
    "model.segment_frames": "model.advanced.segment_frames",
    "model.edges": "model.advanced.temporal_padding",
    "model.tubelet": "model.tubelet_size",
    "model.merge_tokens": "model.tome_r",
    "model.spatial_position": "model.advanced.spatial_position",
    "model.temporal_layers": "model.advanced.temporal_layers",
    "model.frame_projection": "model.advanced.frame_projection",
    "model.classifier_hidden": "model.advanced.classifier_hidden",
    "data.missing_tolerance": "data.max_missing_fraction",
    "data.unreadable_tolerance": "data.max_unreadable_fraction",
    "data.workers": "data.num_workers",
    "data.scale_jitter": "augment.scale_jitter",
    "data.horizontal_flip": "augment.horizontal_flip",
    "data.flip_pairs": "augment.flip_pairs",
    "data.auto_augment": "augment.auto_augment",
    "data.erase": "augment.random_erasing",
    "data.repeats": "augment.repeated_aug",
    "train.mixup": "augment.mixup",
    "train.cutmix": "augment.cutmix",
    "train.lr_batch": "train.lr_base_batch_size",
    "train.accumulate": "train.grad_accum_steps",
    "train.freeze_backbone": "train.tune",
}


def new_name(group: str, name: str) -> str:
    """The dotted name of today of a setting of format 1; empty if it was not renamed.

    Args:
        group: class of the settings, such as ModelConfig.
        name: of the setting.
    """
    groups = {"ModelConfig": "model", "DataConfig": "data", "TrainConfig": "train"}
    return RENAMED.get(f"{groups.get(group, '')}.{name}", "")


def upgrade_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of format 1 under the names of today.

    Args:
        values: nested plain values, as read from YAML: {"model": {...}, "data": {...}, ...}. Not changed.
    """
    upgraded: dict[str, Any] = {}
    for group, settings in values.items():
        if not isinstance(settings, Mapping):
            upgraded[group] = settings
            continue
        upgraded.setdefault(group, {})
        for name, value in settings.items():
            old = f"{group}.{name}"
            if old == "model.direction":
                value = value == "causal"
            if old == "train.precision" and value in ("no", False):
                value = "fp32"
            if old == "train.freeze_backbone":
                value = "head" if value else "full"
            *groups, leaf = RENAMED.get(old, old).split(".")
            target = upgraded
            for part in groups:
                target = target.setdefault(part, {})
            target[leaf] = value
    return upgraded
