"""One training of the ablation study: a loop over arrays of clips, the same for images and videos.

A training has one core, and its clips are in memory: no loader, no checkpoints; it takes a few minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xvit.config import TrainConfig, unwrap_single_task
from xvit.data.transforms import normalize
from xvit.models.xvit import XViT
from xvit.training.losses import classification_loss
from xvit.training.optim import build_optimizer, build_schedule
from xvit.utils.parallel import check_stop

_BATCH_SIZE = 32
_EVAL_BATCH_SIZE = 96


@dataclass(frozen=True)
class Clips:
    """Clips of one split: pixels (n, T, C, H, W) uint8 and, for each task, labels (n,)."""

    pixels: np.ndarray
    labels: Mapping[str, Tensor]

    @classmethod
    def load(cls, directory: Path, split: str, tasks: tuple[str, ...]) -> "Clips":
        """Read a split that `write_clips` has written; the pixels stay on the disk until they are used."""
        labels = torch.from_numpy(np.load(directory / f"{split}_labels.npy"))
        pixels = np.load(directory / f"{split}_pixels.npy", mmap_mode="r")
        return cls(pixels, {task: labels[:, column] for column, task in enumerate(tasks)})

    def first(self, count: int) -> "Clips":
        """The first clips."""
        return Clips(self.pixels[:count], {task: labels[:count] for task, labels in self.labels.items()})

    def batch(self, model: XViT, rows: Tensor) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Normalised clips (B, T, C, H, W) and their labels."""
        pixels = normalize(torch.from_numpy(self.pixels[rows.numpy()]), model.clip_spec)
        return pixels, unwrap_single_task({task: labels[rows] for task, labels in self.labels.items()})


def train_model(
    model: XViT,
    clips: Clips,
    *,
    lr: float,
    epochs: int,
    layer_decay: float = 1.0,
    warmup: float,
    seed: int,
) -> None:
    """Train what is not frozen by AdamW with a cosine schedule, and put the model in eval mode.

    Args:
        model: in place. Its clip spec normalises the pixels.
        lr: the peak learning rate, of the classifier; a layer below another one learns `layer_decay` times as fast.
        warmup: share of the steps in which the rate rises.
        seed: of the order of the clips.
    """
    settings = TrainConfig(epochs=epochs, lr=lr, weight_decay=0.05, layer_decay=layer_decay, optimizer="adamw")
    optimizer = build_optimizer(model, settings)
    steps_per_epoch = len(clips.pixels) // _BATCH_SIZE
    steps = epochs * steps_per_epoch
    schedule = build_schedule(optimizer, steps=steps, warmup_steps=round(warmup * steps), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        if step % steps_per_epoch == 0:
            order = torch.randperm(len(clips.pixels), generator=generator)
        start = step % steps_per_epoch * _BATCH_SIZE
        pixel_values, labels = clips.batch(model, order[start : start + _BATCH_SIZE])
        schedule.step_update(step)
        optimizer.zero_grad()
        classification_loss(model(pixel_values), labels).backward()
        optimizer.step()
        check_stop()
    model.eval()


@torch.no_grad()
def predict(model: XViT, clips: Clips) -> Tensor:
    """The logits (n, classes) of a single-task model."""
    parts = []
    for rows in torch.arange(len(clips.pixels)).split(_EVAL_BATCH_SIZE):
        check_stop()
        parts.append(model(clips.batch(model, rows)[0]))
    return torch.cat(parts)
