"""Muon's step against its definition."""

import torch

from xvit import create_model
from xvit.config import TrainConfig
from xvit.training.optim import build_optimizer

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}


def test_muon_steps_are_orthogonal_and_have_one_size():
    """An m x n matrix moves by lr * 0.2 * sqrt(max(m, n)) times a matrix with singular values near 1."""
    torch.manual_seed(0)
    model = create_model("vit_tiny_patch16_224", num_classes=5, num_frames=2, backbone_kwargs=SMALL)
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", lr=0.01, weight_decay=0.0))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 1e3
    optimizer.step()
    for name, p in model.named_parameters():
        moved = (before[name] - p.detach()) / 0.01
        if name.endswith("weight") and p.ndim == 2 and not name.startswith("classifier"):
            values = torch.linalg.svdvals(moved) / (0.2 * max(p.shape) ** 0.5)
            assert 0.3 < values.min() < values.max() < 1.4, name
            assert 0.7 < values.mean() < 1.0, name  # five steps leave most values between 0.68 and 1.13
        else:
            torch.testing.assert_close(moved.abs(), torch.ones_like(moved), atol=1e-3, rtol=0)  # AdamW's first step
    resumed = build_optimizer(model, TrainConfig(optimizer="muon", lr=0.01))
    resumed.load_state_dict(optimizer.state_dict())
    resumed.step()
