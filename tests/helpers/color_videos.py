"""Small synthetic videos, one colour per class, and a small model that learns them in a few steps."""

from pathlib import Path

import numpy as np
import torch

from xvit.config import (
    AugmentConfig,
    ClipSpec,
    DataConfig,
    EvalConfig,
    InitConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    model_config,
)
from xvit.data.synthetic.dataset import encode_video
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT

torch.set_num_threads(1)  # test processes share the cores; more threads make each up to 10 times slower

CLASSES = ("blue", "green", "red")
SIZE, FRAMES = 16, 4
PREPROCESSING = {"frame_rate": None, "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP = ClipSpec(num_frames=FRAMES, image_size=SIZE, **PREPROCESSING)
MODEL = ModelConfig(
    backbone="vit_tiny_patch16_224",
    num_frames=FRAMES,
    backbone_kwargs={"img_size": SIZE, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2},
)


def write_video(path: Path, *, color: int, seed: int) -> Path:
    """Write a video of 6 frames of noise in which colour channel `color` is the brightest."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 120, (6, 24, 32, 3), dtype=np.uint8)
    frames[..., color] += 110
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(frames, path)
    return path


def write_videos(root: Path, *, train: int = 4, val: int = 2) -> Path:
    """Write a data set of `CLASSES`: `train` videos per class in root/train/<class>, `val` in root/val/<class>."""
    for split, num_videos in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            for index in range(num_videos):
                seed = 1000 * label + 100 * (split == "val") + index
                write_video(root / split / name / f"{index}.mp4", color=2 - label, seed=seed)
    return root


def make_model(num_classes: int | dict[str, int] = 3, **options) -> XViT:
    """A model in eval mode, with the same random weights in each call."""
    torch.manual_seed(0)
    init = InitConfig(**{name: options.pop(name) for name in ("pretrained", "checkpoint_path") if name in options})
    model = XViT(model_config(MODEL, num_classes=num_classes, **options))
    if init:
        load_initial_weights(model, init)
    return model.eval()


def with_metadata(model: XViT, class_names) -> XViT:
    """Set the model's clip spec to `CLIP` and its class names; returns the model."""
    model.clip_spec, model.class_names = CLIP, class_names
    return model


def make_config(root: Path, *, model: dict | None = None, num_workers: int = 0, **train) -> RunConfig:
    """A short training run on these videos. `train` holds fields of `TrainConfig`, and mixup or cutmix."""
    augment = {name: train.pop(name) for name in ("mixup", "cutmix") if name in train}
    settings = {"epochs": 2, "batch_size": 5, "lr": 3e-3, "warmup_epochs": 1.0, **train}
    return RunConfig(
        model=model_config(MODEL, **(model or {})),
        clip=CLIP,
        data=DataConfig(root=str(root), num_workers=num_workers, max_unreadable_fraction=1.0),
        augment=AugmentConfig(**augment),
        train=TrainConfig(**settings),
        eval=EvalConfig(batch_size=4),
    )
