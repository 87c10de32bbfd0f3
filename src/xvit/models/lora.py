"""LoRA: low-rank updates of the attention projections (Hu et al., 2021, arXiv 2106.09685).

    y = x W' + (alpha / r) x A' B'        W (out, in) stays as it is; A (r, in) and B (out, r) are trained

B starts at zero, so the model first computes what it did before. `merge_lora` adds (alpha / r) B A to W, which gives an
ordinary model: its cost, files, streams and exports are those of any other. Mixing needs no change: a scheme calls its
projections as modules and mixes what they return.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvit.models.attention import DividedAttention
from xvit.models.xvit import XViT

_ALPHA = 16  # a constant, so that a learning rate suits every rank (section 4.1 of the paper)
_PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "proj")  # of all schemes; some Eva models have separate ones


class LoRALinear(nn.Linear):
    """A linear layer whose weight is frozen, with a trained low-rank update.

    Args:
        linear: the layer; its weight and bias are taken over, not copied.
        rank: r.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        new: dict[str, Any] = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, **new))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, **new))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)  # as nn.Linear
        self.requires_grad_(False)
        for factor in (self.lora_a, self.lora_b):
            factor.requires_grad_(True)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return _ALPHA / len(self.lora_a)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer that computes the same."""
        merged = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        merged.weight = nn.Parameter(self.weight + self.scale * self.lora_b @ self.lora_a)
        merged.bias = self.bias
        return merged


def add_lora(model: XViT, rank: int) -> None:
    """Freeze the image model, and give the projections of all its attention layers updates of this rank.

    What an XViT adds to the image model is trained in full: temporal positions and head, classifier, and the temporal
    layers of divided attention.
    """
    model.backbone.requires_grad_(False)
    for parent, name, layer in _find_layers(model, nn.Linear):
        setattr(parent, name, LoRALinear(layer, rank))
    for attention in model.attention_layers:
        if isinstance(attention, DividedAttention):
            attention.temporal.requires_grad_(True)
            attention.temporal_proj.requires_grad_(True)


def merge_lora(model: XViT) -> XViT:
    """A copy of the model with the updates merged into the weights; the model itself if it has none."""
    if not any(_find_layers(model, LoRALinear)):
        return model
    merged = deepcopy(model)
    for parent, name, layer in _find_layers(merged, LoRALinear):
        setattr(parent, name, layer.merge())
    return merged


def _find_layers(model: XViT, kind: type[nn.Linear]) -> Iterator[tuple[nn.Module, str, Any]]:
    """The projections of this kind: for each the attention layer, its name there, and itself."""
    for attention in model.attention_layers:
        for name in _PROJECTIONS:
            if isinstance(layer := getattr(attention, name, None), kind):
                yield attention, name, layer
