"""A tiny checkpoint in the format of the paper's authors, with values that their code computed."""

from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parents[1] / "assets" / "tiny_div8.safetensors"
OPTIONS: dict[str, Any] = {"num_frames": 4, "num_heads": 3, "mix_ratio": 0.25}


def golden_clip(num_frames: int = 4) -> torch.Tensor:
    """The clip whose features and logits are stored in `GOLDEN`, (1, T, 3, 224, 224)."""
    i = torch.arange(num_frames * 3 * 224 * 224, dtype=torch.float64)
    return torch.sin(0.37 * i + 3 * torch.sin(0.00091 * i)).float().reshape(1, num_frames, 3, 224, 224)


def model_state(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's tensors among those stored in `GOLDEN`."""
    prefix = "model_state."
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
