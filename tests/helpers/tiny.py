"""Tiny models and clips, and a recipe that trains one of them on the motion data in about a second."""

from typing import Any

import torch
from torch import Tensor

from xvit import XViT, create_model

TINY_BACKBONE: dict[str, int] = {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 32}
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


def tiny_model(backbone: str = "vit_tiny_patch16_224", **options) -> XViT:
    """A model of three layers in eval mode, with the same random weights in each call."""
    torch.manual_seed(0)
    defaults = {"num_classes": 5, "num_frames": 4, "backbone_kwargs": TINY_BACKBONE}
    return create_model(backbone, **(defaults | options)).eval()


def random_clip(T: int = 4, size: tuple[int, int] = (32, 32), B: int = 2) -> Tensor:
    """The same random pixels in each call, (B, T, 3, *size)."""
    return torch.randn(B, T, 3, *size, generator=torch.Generator().manual_seed(1))
