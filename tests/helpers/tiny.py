"""Options of a tiny model, and a recipe that trains it on the motion data in about a second."""

from typing import Any

TINY_MODEL: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "num_frames": 4,
    "backbone_kwargs": {"img_size": 48, "patch_size": 16, "depth": 2, "embed_dim": 24, "num_heads": 2},
}
TINY_RECIPE: dict[str, Any] = {
    "model": TINY_MODEL,
    "clip": {"num_frames": 4, "image_size": 48},
    "data": {"num_workers": 0},
    "augment": {"horizontal_flip": 0.0},
    "train": {"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5},
}
