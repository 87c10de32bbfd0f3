"""The end of the model: temporal positions, Temporal Attention, the classifier.

B clips, T frames, D channels
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_layer_norm: Any = partial(LayerNorm, eps=1e-5)  # the released heads' eps; timm's backbones use 1e-6


class TemporalPosition(nn.Module):
    """A learned vector per frame, initially zero (paper, section 3.1). Interpolated linearly for other T.

    Args:
        num_frames: T of the vectors.
        dim: D.
    """

    def __init__(self, num_frames: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, num_frames, dim))

    def forward(self, num_frames: int) -> Tensor:
        """The positions of `num_frames` frames, (1, num_frames, D)."""
        return resize_positions(self.weight, num_frames)


def resize_positions(positions: Tensor, num_frames: int) -> Tensor:
    """Temporal positions (1, T, D) for another number of frames, linearly interpolated."""
    if num_frames == positions.shape[1]:
        return positions
    return F.interpolate(positions.transpose(1, 2), size=num_frames, mode="linear").transpose(1, 2)


class TemporalAttention(nn.Module):
    """Temporal Attention (paper, section 3.3): a learned token and the T frame vectors go through a light transformer;
    the token's output represents the clip. Its cost is negligible beside the backbone's.

    Args:
        dim: D.
        num_heads: heads of its attention.
        layers: depth; the paper found no gain beyond 1.
        num_frames: T, to add a position to each frame; None to add none.
    """

    def __init__(self, dim: int, *, num_heads: int, layers: int = 1, num_frames: int | None = None) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position = TemporalPosition(num_frames, dim) if num_frames else None
        self.blocks = nn.Sequential(*[Block(dim, num_heads, norm_layer=_layer_norm) for _ in range(layers)])
        self.norm = _layer_norm(dim)
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Frame vectors (B, T, D) to clip vectors (B, D)."""
        if self.position is not None:
            frames = frames + self.position(frames.shape[1])
        tokens = torch.cat([self.cls_token.expand(frames.shape[0], -1, -1), frames], dim=1)  # (B, 1 + T, D)
        clip: Tensor = self.norm(self.blocks(tokens)[:, 0])
        return clip


class TemporalMean(nn.Module):
    """The mean of the frame vectors: (B, T, D) to (B, D)."""

    def forward(self, frames: Tensor) -> Tensor:
        """Frame vectors (B, T, D) to clip vectors (B, D)."""
        return frames.mean(dim=1)


class FrameProjection(nn.Module):
    """A linear layer and tanh on each frame's vector: in the released models, before the temporal head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return torch.tanh(self.fc(frames))


class Classifier(nn.Module):
    """Dropout and one linear layer per task. With 0 classes, the output is the clip vector itself.

    Args:
        dim: D.
        tasks: number of classes of each task.
        hidden: width of a layer with GELU before, shared by the tasks; 0 for none.
        dropout: dropout before the last layers.
    """

    def __init__(self, dim: int, tasks: Mapping[str, int], *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(dim, hidden), nn.GELU()) if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        width = hidden or dim
        self.fc = nn.ModuleDict(
            {task: nn.Linear(width, classes) if classes else nn.Identity() for task, classes in tasks.items()}
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, clip_embedding: Tensor) -> dict[str, Tensor]:
        """Clip vectors (..., D) to the logits (..., classes) of each task."""
        x = self.dropout(self.hidden(clip_embedding))
        return {task: layer(x) for task, layer in self.fc.items()}
