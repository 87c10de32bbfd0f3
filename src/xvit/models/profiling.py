"""The cost and the identity of a model: multiply-adds, and a hash of its weights."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xvit.config import to_dict
from xvit.models.xvit import XViT


def count_macs(
    model: XViT, *, num_frames: int | None = None, image_size: int | None = None, all_tokens: bool = False
) -> int:
    """Exact multiply-adds (MACs) of one clip. Papers on video models call them FLOPs; strictly, 1 MAC is 2 FLOPs.

    Args:
        model: on any device; its weights are not used.
        num_frames: T; the config's by default.
        image_size: H = W in pixels; the backbone's by default.
        all_tokens: count the last layer in full, as the paper does, where `class_token_only` skips most of it.
    """
    size = (image_size, image_size) if image_size else model.backbone.patch_embed.img_size
    # On the meta device, as the counter does not see the attention kernels of a CPU.
    clip = torch.empty(1, num_frames or model.config.num_frames, model.in_chans, *size, device="meta")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    on_meta = {name: tensor.detach().to("meta", torch.float32) for name, tensor in tensors.items()}
    modes, class_token_only = {module: module.training for module in model.modules()}, model.class_token_only
    model.class_token_only = class_token_only and not all_tokens
    model.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            torch.func.functional_call(model, on_meta, (clip,))
    finally:
        for module, training in modes.items():
            module.training = training
        model.class_token_only = class_token_only
    return int(counter.get_total_flops()) // 2


def model_hash(model: XViT) -> str:
    """Hash of the settings and weights, 16 hexadecimal digits; the same on every device."""
    return _hash(model, model.state_dict())


def frames_hash(model: XViT) -> str:
    """Hash of the settings and of all weights that the frame vectors depend on, as `model_hash`."""
    behind = ("temporal_head.", "classifier.")
    return _hash(model, {name: t for name, t in model.state_dict().items() if not name.startswith(behind)})


def _hash(model: XViT, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(to_dict(model.config), sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
