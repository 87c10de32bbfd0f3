"""Models to export, and limits that any export passes."""

import torch

from helpers.color_videos import MODEL, make_model, with_metadata
from xvit.config import ClassNames
from xvit.export import ParityLimits
from xvit.models.xvit import XViT

CLASS_NAMES = ["blue", "green", "red"]
TASK_NAMES = {"colour": CLASS_NAMES, "sound": ["loud", "soft"]}
NO_LIMITS = ParityLimits(min_agreement=0)  # for random weights, whose top classes have almost equal logits

# Few models with many options: tests that export the same one share its conversion, which takes seconds.
SMALLEST = {"depth": 1, "temporal_position": "none", "temporal_head": "mean"}
DYNAMIC = {"depth": 1, "temporal_position": "none", "summary_tokens": 1}  # any number of frames
TASKS = {
    "class_names": TASK_NAMES,
    "depth": 1,
    "attention": "divided",
    "summary_tokens": 1,
    "temporal_position": "head",
}
MERGING = {
    "tome_r": 1,
    "tubelet_size": 2,
    "grouping": "per_head",
    "temporal_position": "none",
    "temporal_head": "mean",
    "multi_label": True,
}
STREAMING = {"causal": True, "temporal_position": "head", "window": 2}


def make_original(*, class_names: ClassNames = CLASS_NAMES, depth: int = 2, **options) -> XViT:
    """A model with class names and random weights, none of which are zero as some are initially."""
    tasks = {task: len(names) for task, names in class_names.items()} if isinstance(class_names, dict) else None
    kwargs = {**MODEL.backbone_kwargs, "depth": depth}
    model = make_model(tasks or len(class_names), backbone_kwargs=kwargs, **options)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return with_metadata(model, class_names)
