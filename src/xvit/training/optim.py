"""What a step does to the weights: parameter groups, optimiser, learning-rate schedule."""

from typing import Any

from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, AdamW, Optimizer

from xvit.config import TrainConfig
from xvit.models.xvit import XViT
from xvit.training.muon import Muon
from xvit.utils import distributed

DECAYED = (nn.Linear, _ConvNd)  # the layers whose `weight` is a matrix that multiplies features


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: the weights of linear and convolutional layers, which decay, and the
    rest (biases, norms, scales, tokens, positions), which does not. Each parameter is in exactly one."""
    weights = {module.weight for module in model.modules() if isinstance(module, DECAYED)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p in weights], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p not in weights], "weight_decay": 0.0},
    ]


def scaled_lr(config: TrainConfig) -> float:
    """The peak learning rate, scaled to the clips of an update."""
    clips = config.batch_size * config.grad_accum_steps * distributed.world_size()
    return config.lr * clips / config.lr_base_batch_size if config.lr_base_batch_size else config.lr


def layer_decay_groups(model: XViT, groups: list[dict[str, Any]], decay: float) -> list[dict[str, Any]]:
    """Split the groups so that each layer of the backbone learns `decay` times as fast as the one after it, its patches
    and positions as a layer before the first; what is not of the backbone, at the full rate. The schedule multiplies
    each group's rate by its lr_scale."""
    depth = len(model.backbone.blocks)

    def layers_above(name: str) -> int:
        if name.startswith("backbone.blocks."):
            return depth - int(name.split(".")[2])
        embeds = ("backbone.patch_embed", "backbone.pos_embed", "backbone.cls_token", "backbone.reg_token")
        return depth + 1 if name.startswith((*embeds, "backbone.norm_pre")) else 0

    above = {parameter: layers_above(name) for name, parameter in model.named_parameters()}
    return [
        {**group, "params": [p for p in group["params"] if above[p] == number], "lr_scale": decay**number}
        for group in groups
        for number in sorted({above[p] for p in group["params"]})
    ]


def build_optimizer(model: XViT, config: TrainConfig) -> Optimizer:
    """AdamW, SGD with Nesterov momentum 0.9, or Muon for all linear layers but the classifier's and AdamW for the rest;
    fused: one call for all parameters, not one each."""
    lr = scaled_lr(config)
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "muon":
        last = set(model.classifier.parameters())
        inner = {m.weight for m in model.modules() if isinstance(m, nn.Linear)} - last
        decayed = groups[0]["params"]
        groups[0]["params"] = [p for p in decayed if p not in inner]
        groups.append(
            {
                "params": [p for p in decayed if p in inner],
                "weight_decay": config.weight_decay,
                "orthogonalize": True,
            }
        )
    if config.layer_decay < 1:
        groups = layer_decay_groups(model, groups, config.layer_decay)
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    if config.optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    return AdamW(groups, lr=lr, fused=True)


def build_schedule(optimizer: Optimizer, *, steps: int, warmup_steps: int, lr: float) -> CosineLRScheduler:
    """Linear warm-up over `warmup_steps`, the first step's rate above zero, then a cosine to zero over the rest.

    Before step i (from 0), call `schedule.step_update(i)`: a function of i alone, so there is no state to save.
    """
    warmup_steps = min(warmup_steps, steps)
    return CosineLRScheduler(
        optimizer,
        # timm logs a warning for a cosine of one step, which a run of one step rightly has
        t_initial=max(2, steps - warmup_steps),
        warmup_t=warmup_steps,
        warmup_lr_init=lr / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
