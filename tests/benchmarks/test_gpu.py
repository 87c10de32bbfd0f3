"""The benchmark of GPUs, tried on the CPU with tiny models."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_checks
import gpu_mixing
import gpu_times
from xvit import create_model
from xvit.models.attention import MixingAttention
from xvit.models.mixing import MixingPattern


def test_each_part_writes_its_table(tmp_path, monkeypatch, capsys):
    parts = ["checks", "stream", "mixing"]
    tiny = {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 32}
    monkeypatch.setattr(gpu_checks, "BACKBONE", tiny)
    monkeypatch.setattr(gpu_checks, "SIZE", 32)
    monkeypatch.setattr(gpu_checks, "check_forms", lambda device: iter(()))
    monkeypatch.setitem(gpu.PARTS, "stream", lambda args: 1 / 0)
    monkeypatch.setitem(gpu.PARTS, "mixing", lambda args: [measure_tiny()])
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--output", str(tmp_path), "--device", "cpu", "--small", "--only", *parts]
    )
    assert gpu.main() == 1  # a part failed, the others are there
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["errors"] == {"stream": "ZeroDivisionError: division by zero"}
    assert all(row["passed"] for row in result["checks"]["models"])
    text = (tmp_path / "gpu.md").read_text()
    assert "Failed: ZeroDivisionError" in text
    assert "| second | " in text
    assert text in capsys.readouterr().out


def measure_tiny():
    steps = {name: lambda: torch.ones(8).sum() for name in ("first", "second")}
    setting = {"backbone": "none", "frames": 8, "batch_size": 1, "precision": "fp32", "mode": "inference"}
    rows = gpu_times._measure(steps, "cpu", rounds=8, clips=1)
    return {"setting": setting | {"compiled": False, "rounds": 8}, "models": rows}


def test_each_way_to_mix_gives_the_same_logits():
    """Frames, heads and window are such that each group of heads has edges, and reads an inner frame too."""
    logits = {}
    for name, scheme in gpu_mixing.VARIANTS.items():
        torch.manual_seed(0)
        backbone = {"depth": 2, "embed_dim": 32, "num_heads": 4, "img_size": 32}
        model = create_model("vit_tiny_patch16_224", num_classes=5, num_frames=4, backbone_kwargs=backbone).eval()
        for layer in model.attention_layers:
            layer.__class__ = scheme
        with torch.no_grad():
            logits[name] = model(torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    for name, values in logits.items():
        torch.testing.assert_close(values, logits["kernel"], msg=name)
    with torch.no_grad():
        for layer in model.attention_layers:
            layer.pattern = MixingPattern()
            layer.__class__ = MixingAttention
        unmixed = model(torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert (unmixed - logits["kernel"]).abs().max() > 1e-4


def test_a_wrong_model_does_not_pass(monkeypatch):
    logits = gpu_checks._logits_and_grads
    calls = []

    def wrong_second(model, clips):
        calls.append(model)
        values, grads = logits(model, clips)
        return values + (len(calls) > 1) * 1e-2 * values.abs().max(), grads

    monkeypatch.setattr(gpu_checks, "_logits_and_grads", wrong_second)
    [row] = gpu_checks.check_models("cpu", ["spatial"])
    assert row["fp32"] == pytest.approx(1e-2, rel=1e-3)
    assert not row["passed"]
