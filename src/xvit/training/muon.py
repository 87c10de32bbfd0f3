"""Muon: momentum whose matrices are orthogonalised before they are applied (Jordan et al., 2024)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch.optim import AdamW

_NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)] * 5  # its published coefficients, five steps
_MOMENTUM = 0.95


class Muon(AdamW):
    """AdamW, but for groups with `orthogonalize=True`, whose parameters are matrices and take Muon's step.

    The step is scaled to the size of AdamW's, so that one learning rate serves both. torch's and timm's own Muon
    orthogonalise in bfloat16, which CPUs without such units do twenty times slower than float32.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: as in torch's optimisers; computes the gradients and the loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("orthogonalize"):
                for p in group["params"]:
                    if p.grad is not None:
                        self._step_matrix(p, lr=group["lr"], weight_decay=group["weight_decay"])
                        p.grad = None  # done: AdamW leaves it alone
        super().step()
        return loss

    def _step_matrix(self, p: torch.Tensor, *, lr: float, weight_decay: float) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.tensor(0.0)  # not used here; AdamW looks for it when a state is loaded
        momentum = state["momentum"].lerp_(p.grad, 1 - _MOMENTUM)
        ahead = p.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
        dtype = torch.float32 if p.device.type == "cpu" else torch.bfloat16
        direction = zeropower_via_newtonschulz(ahead, len(_NEWTON_SCHULZ), _NEWTON_SCHULZ, dtype=dtype)
        p.mul_(1 - lr * weight_decay)
        p.add_(direction.to(p.dtype), alpha=-lr * 0.2 * math.sqrt(max(p.shape)))
