"""Parameter groups, optimizer and learning-rate schedule."""

from typing import Any

from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, AdamW, Optimizer

from xvit.config import TrainConfig
from xvit.models.xvit import XViT
from xvit.training.muon import Muon
from xvit.utils import distributed

DECAYED = (nn.Linear, _ConvNd)  # layers whose `weight` is decayed

ParameterGroup = dict[str, Any]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Divide the trainable parameters into two groups, with and without weight decay.

    The weights of linear and convolutional layers are decayed; biases, norms, scales, tokens and positions are not.
    """
    weights = {module.weight for module in model.modules() if isinstance(module, DECAYED)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p in weights], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p not in weights], "weight_decay": 0.0},
    ]


def scaled_lr(config: TrainConfig) -> float:
    """The peak learning rate, scaled to the number of clips per update."""
    clips = config.batch_size * config.grad_accum_steps * distributed.world_size()
    return config.lr * clips / config.lr_base_batch_size if config.lr_base_batch_size else config.lr


def layer_decay_groups(model: XViT, groups: list[ParameterGroup], decay: float) -> list[ParameterGroup]:
    """Split parameter groups by layer, for layer-wise learning-rate decay.

    Each layer of the backbone learns `decay` times as fast as the layer above it; the patch embedding and the positions
    count as the layer below the first. Parameters outside the backbone have the full rate. The schedule multiplies the
    rate of each group by its `lr_scale`.
    """
    depth = len(model.backbone.blocks)
    embeddings = tuple(
        f"backbone.{name}" for name in ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
    )

    def layers_above(name: str) -> int:
        if name.startswith("backbone.blocks."):
            return depth - int(name.split(".")[2])
        return depth + 1 if name.startswith(embeddings) else 0

    above = {parameter: layers_above(name) for name, parameter in model.named_parameters()}
    return [
        {**group, "params": [p for p in group["params"] if above[p] == distance], "lr_scale": decay**distance}
        for group in groups
        for distance in sorted({above[p] for p in group["params"]})
    ]


def build_optimizer(model: XViT, config: TrainConfig) -> Optimizer:
    """AdamW, SGD with Nesterov momentum 0.9, or Muon for linear layers except the classifier, AdamW for the rest."""
    lr = scaled_lr(config)
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "muon":
        classifier = set(model.classifier.parameters())
        matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear)} - classifier
        decayed = groups[0]["params"]
        groups[0]["params"] = [p for p in decayed if p not in matrices]
        groups.append({**groups[0], "params": [p for p in decayed if p in matrices], "use_muon": True})
    if config.layer_decay < 1:
        groups = layer_decay_groups(model, groups, config.layer_decay)
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    if config.optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return AdamW(groups, lr=lr, fused=True)


def build_schedule(optimizer: Optimizer, *, steps: int, warmup_steps: int, lr: float) -> CosineLRScheduler:
    """Linear warm-up over `warmup_steps`, starting above zero, then a cosine to zero over the remaining steps.

    Call `schedule.step_update(i)` before step i, counted from 0. The rate depends on i alone, so there is no state to
    save.
    """
    warmup_steps = min(warmup_steps, steps)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, steps - warmup_steps),  # timm warns about a cosine of one step, which is valid here
        warmup_t=warmup_steps,
        warmup_lr_init=lr / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
