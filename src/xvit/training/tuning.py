"""What a training changes: all weights, low-rank updates (LoRA), or the head alone.

              image model                     temporal head, classifier
full          trained                         trained
lora          frozen + low-rank updates       trained
head          frozen, run once a view         trained, on frame vectors that are kept (`frame_cache`)

Everything before the frame vectors counts as the image model for head, temporal positions at the input included: they
stay as they are, zero in a new model. `model.temporal_position=head` puts them behind, where they are trained.
"""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from xvit.config import RunConfig
from xvit.models.lora import add_lora
from xvit.models.xvit import XViT
from xvit.utils import distributed
from xvit.utils.errors import XViTError


def check_tuning(config: RunConfig) -> None:
    """Raise `XViTError` if train.tune does not go together with another setting."""
    tune, augment = config.train.tune, config.augment
    if tune == "lora" and config.train.sharding != "none":
        raise XViTError(
            f"train.tune='lora' with train.sharding={config.train.sharding!r}: not supported; what LoRA trains needs "
            "little memory: use train.sharding='none'"
        )
    if tune != "head":
        return
    for name in ("mixup", "cutmix"):
        if value := getattr(augment, name):
            raise XViTError(
                f"augment.{name}={value:g} with train.tune='head': it changes the pixels in every step, but the frame "
                f"vectors are computed only once: set augment.{name}=0"
            )
    if distributed.world_size() > 1:
        raise XViTError("train.tune='head' trains on frame vectors in one process: start it without torchrun")


def freeze(model: XViT, config: RunConfig) -> None:
    """Freeze the weights that `config.train.tune` says, and add the updates of LoRA."""
    if config.train.tune == "lora":
        add_lora(model, config.train.lora_rank)
    elif config.train.tune == "head":
        model.requires_grad_(False)
        model.temporal_head.requires_grad_(True)
        model.classifier.requires_grad_(True)


class HeadOnly(nn.Module):
    """A model as a function of frame vectors (B, T, D), for training its head. The rest stays in eval mode."""

    def __init__(self, model: XViT) -> None:
        super().__init__()
        self.module = model  # of this name, so that saved states name the tensors as for other wrapped models

    def forward(self, frames: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits (B, classes), or a dict of them."""
        return self.module.classify_frames(frames)

    def train(self, mode: bool = True) -> "HeadOnly":
        """Set the mode of the head; the frozen layers, such as drop path, are in eval mode."""
        super().train(mode)
        self.module.train(False)
        self.module.temporal_head.train(mode)
        self.module.classifier.train(mode)
        return self


class AveragedWeights(ModelEmaV3):
    """The moving average of the weights that are trained: that of all would take longer than training a head."""

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Move the average towards the weights of the model, whose frozen ones it has already."""
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*((average, p) for average, p in pairs if p.requires_grad), strict=True)
        torch._foreach_lerp_(averages, weights, weight=1 - decay)
