"""The attentive probe: a learned query attends to the frames of a video, whose order it sees by learned positions.

N videos, T frames, D channels
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

_STEPS, _BATCH_SIZE, _LR = 300, 256, 0.002
_MAX_HEADS = 8


class AttentiveProbe(nn.Module):
    """Cross-attention of one learned query over the frames, and a linear layer (as in V-JEPA, arXiv 2404.08471, without
    its MLP: with few videos, fewer weights)."""

    def __init__(self, num_frames: int, dim: int, num_classes: int) -> None:
        super().__init__()
        # As large as the standardised frames: small positions leave the frames alike, and it learns their order late.
        self.position = nn.Parameter(torch.randn(num_frames, dim))
        self.query = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, math.gcd(dim, _MAX_HEADS), batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Frame vectors (N, T, D) to logits (N, classes)."""
        tokens = frames + self.position
        query = self.query.expand(len(frames), -1, -1)
        attended: Tensor = self.attention(query, tokens, tokens, need_weights=False)[0]
        logits: Tensor = self.classifier(self.norm(attended[:, 0]))
        return logits


class FittedProbe:
    """An attentive probe, trained on labelled frame vectors.

    The vectors are standardised channel by channel. AdamW takes 300 steps of at most 256 videos, at a rate that falls
    along a cosine.

    Args:
        x: frame vectors (N, T, D) float32.
        y: class indices (N,).
        num_classes: number of classes.
        weight_decay: of AdamW, on all weights.
        seed: of initial weights and batches.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, num_classes: int, *, weight_decay: float, seed: int) -> None:
        self._mean, self._std = x.mean(axis=(0, 1)), x.std(axis=(0, 1)) + 1e-6
        frames, targets = self._prepare(x), torch.from_numpy(y)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self._probe = AttentiveProbe(x.shape[1], x.shape[2], num_classes)
            optimizer = torch.optim.AdamW(self._probe.parameters(), lr=_LR, weight_decay=weight_decay)
            schedule = CosineLRScheduler(optimizer, t_initial=_STEPS, t_in_epochs=False)
            for step, batch in enumerate(_batches(len(x))):
                schedule.step_update(step)
                optimizer.zero_grad()
                F.cross_entropy(self._probe(frames[batch]), targets[batch]).backward()
                optimizer.step()

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (N, classes) of frame vectors (N, T, D)."""
        with torch.no_grad():
            parts = [self._probe(part).softmax(dim=1) for part in self._prepare(x).split(_BATCH_SIZE)]
        return torch.cat(parts).numpy()

    def score(self, x: np.ndarray, y: np.ndarray) -> float:
        """Share of the videos whose class has the highest probability."""
        return float((self.predict_proba(x).argmax(axis=1) == y).mean())

    def _prepare(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy((x - self._mean) / self._std)


def _batches(total: int) -> Iterator[Tensor]:
    """The indices of each step's videos: permutations, cut into batches."""
    indices: Tensor = torch.empty(0, dtype=torch.int64)
    size = min(total, _BATCH_SIZE)
    for _ in range(_STEPS):
        if len(indices) < size:
            indices = torch.randperm(total)
        yield indices[:size]
        indices = indices[size:]
