"""Muon: momentum whose matrices are orthogonalised before they are applied (Jordan et al., 2024)."""

from collections.abc import Callable

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor
from torch.optim import AdamW

_COEFFICIENTS, _NEWTON_SCHULZ_STEPS = [(3.4445, -4.7750, 2.0315)], 5  # as published
_MOMENTUM = 0.95


class Muon(AdamW):
    """AdamW, with Muon's step for the matrices in groups with `use_muon=True`.

    The step is scaled to the size of AdamW's, so that one learning rate serves both. timm's and torch's own classes
    always orthogonalise in bfloat16: 4 to 50 times slower than float32 on CPUs without bfloat16 units.
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
        momentum_buffer = state["momentum_buffer"].lerp_(grad, 1 - _MOMENTUM)
        update = grad.lerp(momentum_buffer, _MOMENTUM)  # Nesterov momentum
        dtype = torch.float32 if p.device.type == "cpu" else torch.bfloat16
        direction = zeropower_via_newtonschulz(update, _NEWTON_SCHULZ_STEPS, _COEFFICIENTS, dtype=dtype)
        p.mul_(1 - lr * weight_decay)
        p.add_(direction.to(p.dtype), alpha=-lr * get_lr_scale(p.shape, "match_rms_adamw"))
