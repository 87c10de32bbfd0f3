"""Whether models compute on an accelerator what they compute on the CPU: a part of gpu.py."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xvit import XViT, create_model
from xvit.models.attention import SpatialAttention
from xvit.models.streaming import Stream

T, SIZE = 8, 96
BACKBONE = {"depth": 4, "embed_dim": 192, "num_heads": 4, "img_size": SIZE}
MODELS: dict[str, dict[str, Any]] = {
    "mixing": {},
    "mixing, window 2": {"window": 2},
    "mixing, all channels": {"mix_ratio": 1.0},
    "mixing, per head": {"grouping": "per_head"},
    "mixing, replicate": {"temporal_padding": "replicate"},
    "mixing, keys": {"mix_inputs": "keys"},
    "mixing, values": {"mix_inputs": "values"},
    "mixing, x": {"mix_inputs": "x"},
    "mixing, segments of 4": {"segment_frames": 4},
    "mixing, causal": {"causal": True, "temporal_position": "head"},
    "mixing, 4 summary tokens": {"summary_tokens": 4},
    "mixing, tubelet 2": {"tubelet_size": 2},
    "mixing, token merging": {"tome_r": 2},
    "mixing, qk-norm": {"backbone_kwargs": BACKBONE | {"qk_norm": True}},
    "mixing, rotary positions": {"backbone": "vit_small_patch16_dinov3"},
    "spatial": {"attention": "spatial"},
    "local": {"attention": "local"},
    "joint": {"attention": "joint"},
    "divided": {"attention": "divided"},
}
IN_PLACE = [f"mixing{kind}" for kind in ("", ", window 2", ", all channels", ", per head", ", replicate", ", keys")]
IN_PLACE += ["mixing, values", "mixing, segments of 4"]
FP32_LIMIT = 1e-4  # largest difference, as a share of the largest value
HALF_LIMIT = 5e-2  # the same for bf16 and fp16


def check_models(device: str, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """One row per model: how far its logits and gradients on the device are from those on the CPU."""
    for name in names or MODELS:
        model, clips = _model(name), torch.randn(2, T, 3, SIZE, SIZE)
        expected, expected_grads = _logits_and_grads(model, clips)
        model, clips = model.to(device), clips.to(device)
        logits, grads = _logits_and_grads(model, clips)
        row = {"model": name, "fp32": difference(logits, expected), "gradients": _largest(grads, expected_grads)}
        for label, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16}.items():
            with torch.autocast(torch.device(device).type, dtype):
                half, half_grads = _logits_and_grads(model, clips)
            row[label] = difference(half, expected)
            row[f"{label} gradients"] = _largest(half_grads, expected_grads)
        row["passed"] = max(row["fp32"], row["gradients"]) <= FP32_LIMIT and max(row["bf16"], row["fp16"]) <= HALF_LIMIT
        yield row


def check_forms(device: str) -> Iterator[dict[str, Any]]:
    """One row per pair of computations on the device that must agree."""
    causal = _model("mixing, causal").to(device)
    clips = torch.randn(2, T, 3, SIZE, SIZE, device=device)
    with torch.inference_mode():
        expected = causal(clips)
        stream = Stream(causal)
        for t in range(T):
            pushed = stream.push(clips[:, t : t + 1]).logits
        yield _form("last of T streamed frames, and the clip", pushed[:, -1], expected, FP32_LIMIT)
    for name in IN_PLACE:
        model = _model(name).to(device)
        in_place, grads = _logits_and_grads(model, clips)
        for layer in model.attention_layers:
            layer.__class__ = _out_of_place(type(layer))
        pure, pure_grads = _logits_and_grads(model, clips)
        yield _form(f"{name}: in place, and as a pure function", in_place, pure, FP32_LIMIT)
        yield _form(f"{name}: their gradients", _flat(grads), _flat(pure_grads), FP32_LIMIT)
    model = _model("mixing").to(device)
    with torch.inference_mode():
        yield _form("compiled, and eager", torch.compile(model)(clips), model(clips), FP32_LIMIT)
    torch.compiler.reset()


def difference(x: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, as a share of the largest value; infinite if x is not finite."""
    x, expected = x.detach().cpu().float(), expected.detach().cpu().float()
    if not x.isfinite().all():
        return float("inf")
    return float((x - expected).abs().max() / expected.abs().max())


def _form(name: str, x: Tensor, expected: Tensor, limit: float) -> dict[str, Any]:
    value = difference(x, expected)
    return {"compared": name, "difference": value, "limit": limit, "passed": value <= limit}


def _model(name: str) -> XViT:
    torch.manual_seed(0)
    options = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": BACKBONE} | MODELS[name]
    model = create_model(num_classes=16, num_frames=T, **options).eval()
    for parameter in model.parameters():  # zero-initialised layers would compute nothing
        nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else parameter.data.add_(
            0.02 * torch.randn_like(parameter)
        )
    return model


def _logits_and_grads(model: XViT, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(clips)
    assert isinstance(logits, Tensor)
    logits.float().square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _largest(grads: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return difference(_flat(grads), _flat(expected)) if grads.keys() == expected.keys() else float("inf")


def _flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([grad.flatten() for grad in grads.values()])


def _out_of_place(scheme: type[SpatialAttention]) -> type[SpatialAttention]:
    return type(scheme.__name__, (scheme,), {"mixes_in_place": False})
