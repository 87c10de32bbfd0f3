"""Checks of a recipe before training: do its settings go together, and do they match the data set."""

from dataclasses import replace

import torch

from xvit.config import ModelConfig, RunConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations import DatasetSplits
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_choice, one_line


def check_recipe(config: RunConfig) -> None:
    """Check that the settings go together, without data or weights: run the model on PyTorch's meta device.

    Raises:
        XViTError: settings that do not go together.
    """
    model, clip = config.model, config.clip
    if model.num_frames != clip.num_frames:
        raise XViTError(f"model.num_frames={model.num_frames} and clip.num_frames={clip.num_frames}: must be equal")
    with torch.device("meta"):
        meta_model = XViT(model).eval()
        clip = resolve_clip_spec(clip, meta_model.backbone)
        pixel_values = torch.empty(1, clip.num_frames, 3, clip.image_size, clip.image_size)
    try:
        meta_model(pixel_values)
    except (XViTError, RuntimeError, AssertionError) as error:
        raise XViTError(
            f"clip.image_size={clip.image_size}: backbone {model.backbone} does not accept frames of this size: "
            f"{one_line(error, length=1000)}"
        ) from None


def resolve_model_config(config: RunConfig, data: DatasetSplits) -> ModelConfig:
    """The recipe's model config, with the number of classes of the data set.

    Raises:
        XViTError: another number of classes, a loss weight for an unknown task, no training or no validation videos.
    """
    class_names, root = as_task_dict(data.class_names), config.data.root
    num_classes = unwrap_single_task({task: len(names) for task, names in class_names.items()})
    if config.model.num_classes not in (0, num_classes):
        raise XViTError(
            f"model.num_classes={config.model.num_classes}, but {root} has {num_classes} classes; leave it at 0 to use "
            "the number of the data set"
        )
    for task in config.train.loss_weights:
        check_choice("train.loss_weights: task", task, class_names)
    if not data.train:
        raise XViTError(f"{root}: no training videos")
    if not data.val:
        raise XViTError(f"{root}: no validation videos; set data.val_fraction or add a val folder")
    return replace(config.model, num_classes=num_classes, multi_label=config.data.multi_label)
