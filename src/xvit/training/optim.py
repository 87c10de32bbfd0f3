"""Parameter groups, optimizers (Muon is defined here) and learning-rate schedule."""

from collections.abc import Callable
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, AdamW, Optimizer

from xvit.config import TrainConfig
from xvit.models.xvit import XViT
from xvit.utils import distributed

_COEFFICIENTS, _NEWTON_SCHULZ_STEPS = [(3.4445, -4.7750, 2.0315)], 5  # Muon's, as published
_MUON_MOMENTUM = 0.95

ParameterGroup = dict[str, Any]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Divide the trainable parameters into two groups, with and without weight decay.

    The weights of linear and convolutional layers are decayed; biases, norms, scales, tokens and positions are not.
    """
    weights = {module.weight for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)}
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
    names = ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
    embeddings = tuple(f"backbone.{name}" for name in names)
    above: dict[nn.Parameter, int] = {}  # number of layers above each parameter's layer
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.blocks."):
            above[parameter] = depth - int(name.split(".")[2])
        else:
            above[parameter] = depth + 1 if name.startswith(embeddings) else 0
    return [
        {**group, "params": [p for p in group["params"] if above[p] == distance], "lr_scale": decay**distance}
        for group in groups
        for distance in sorted({above[p] for p in group["params"]})
    ]


class Muon(AdamW):
    """AdamW, with Muon's step for the matrices in groups with `use_muon=True`.

    Muon orthogonalises the momentum of a matrix before it is applied (Jordan et al., 2024). Its step is scaled to the
    size of AdamW's, so that one learning rate serves both. timm's and torch's own classes always orthogonalise in
    bfloat16: 4 to 50 times slower than float32 on CPUs without bfloat16 units.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights. `closure` is as in torch's optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"] if group.get("use_muon") else ():
                if p.grad is not None:
                    self._step_matrix(p, p.grad, lr=group["lr"], weight_decay=group["weight_decay"])
                    p.grad = None  # so that AdamW skips it
        super().step()
        return loss

    def _step_matrix(self, p: Tensor, grad: Tensor, *, lr: float, weight_decay: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
            state["step"] = torch.tensor(0.0)  # unused, but AdamW expects it when a state is loaded
        momentum_buffer = state["momentum_buffer"].lerp_(grad, 1 - _MUON_MOMENTUM)
        update = grad.lerp(momentum_buffer, _MUON_MOMENTUM)  # Nesterov momentum
        dtype = torch.float32 if p.device.type == "cpu" else torch.bfloat16
        direction = zeropower_via_newtonschulz(update, _NEWTON_SCHULZ_STEPS, _COEFFICIENTS, dtype=dtype)
        p.mul_(1 - lr * weight_decay)
        p.add_(direction.to(p.dtype), alpha=-lr * get_lr_scale(p.shape, "match_rms_adamw"))


def build_optimizer(model: XViT, config: TrainConfig) -> Optimizer:
    """AdamW, SGD with Nesterov momentum 0.9, or Muon for linear layers except the classifier, AdamW for the rest."""
    lr = scaled_lr(config)
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "muon":
        matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear)} - set(model.classifier.parameters())
        decayed = groups[0]["params"]
        groups[0]["params"] = [p for p in decayed if p not in matrices]
        groups.append({**groups[0], "params": [p for p in decayed if p in matrices], "use_muon": True})
    if config.layer_decay < 1:
        groups = layer_decay_groups(model, groups, config.layer_decay)
    if config.optimizer == "muon":
        return Muon(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    if config.optimizer == "sgd":
        is_fused = config.sharding == "none"  # torch (2.14) has no fused SGD for sharded parameters
        return SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=is_fused)
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
