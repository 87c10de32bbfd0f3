"""The models under comparison: XViT with each attention scheme, timm's image model, and other video transformers.

All take clips (B, T, C, H, W) with the same number of frames. Most have the size of the requested backbone (ViT-B/16:
12 layers, 768 channels, 16 px patches). MViT v2 and Video Swin exist in sizes of their own only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvit.models.factory import create_model
from xvit.utils.errors import XViTError, did_you_mean, import_optional

NUM_CLASSES = 400
IMAGE_MODEL = "image model"  # always measured: the ratios are to its time and memory


class _Adapter(nn.Module):
    """A model that takes clips (B, T, C, H, W) and returns logits, through a function that calls the given model."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, clips: Tensor) -> Tensor:
        return self.call(self.model, clips)


@dataclass(frozen=True)
class BenchmarkModel:
    """A model under comparison.

    Args:
        build: called with the backbone's name and num_frames=.
        description: a short description for the report.
        frames: the supported numbers of frames; empty if any number is supported.
        image_size: pixels per side, for a model of its own size; None for one of the backbone's size.
    """

    build: Callable[..., nn.Module]
    description: str
    frames: tuple[int, ...] = ()
    image_size: int | None = None

    def supports(self, frames: int) -> bool:
        """Whether the model takes clips of this many frames."""
        return not self.frames or frames in self.frames


def _xvit(note: str = "", **options: Any) -> BenchmarkModel:
    description = ", ".join(f"{name}={value!r}" for name, value in options.items()) + note
    return BenchmarkModel(partial(create_model, num_classes=NUM_CLASSES, **options), description)


def _mixing_alone(backbone: str, num_frames: int) -> nn.Module:
    model = create_model(backbone, num_classes=NUM_CLASSES, num_frames=num_frames, temporal_head="mean")
    model.class_token_only = False
    return model


def _image_model(backbone: str, num_frames: int) -> nn.Module:
    model = timm.create_model(backbone, num_classes=NUM_CLASSES)
    return _Adapter(model, lambda model, clips: model(clips.flatten(0, 1)))  # each frame is an image


class _FusedAttention(nn.Module):
    """The attention of transformers' TimeSformer, computed by one kernel; the library computes it in parts."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.num_heads = attention.qkv, attention.num_heads

    def forward(self, tokens: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        B, N, D = tokens.shape
        qkv = self.qkv(tokens).view(B, N, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)  # 3 B h N d
        return (F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(B, N, D),)


def _fuse_attention(timesformer: Any) -> None:
    for layer in timesformer.encoder.layer:
        for attention in (layer.attention, layer.temporal_attention):
            attention.attention = _FusedAttention(attention.attention)


def _transformers_model(name: str, note: str) -> BenchmarkModel:
    def build(backbone: str, num_frames: int, backbone_kwargs: Mapping[str, Any] | None = None) -> nn.Module:
        transformers = import_optional("transformers", extra="benchmark")
        with torch.device("meta"):  # only its sizes are needed
            vit: Any = timm.create_model(backbone, num_classes=0, **(backbone_kwargs or {}))
        config = getattr(transformers, f"{name}Config")(
            num_frames=num_frames,
            num_labels=NUM_CLASSES,
            image_size=vit.patch_embed.img_size[0],
            patch_size=vit.patch_embed.patch_size[0],
            hidden_size=vit.embed_dim,
            num_hidden_layers=len(vit.blocks),
            num_attention_heads=vit.blocks[0].attn.num_heads,
            intermediate_size=vit.blocks[0].mlp.fc1.out_features,
        )
        if name == "Vivit":
            config.tubelet_size = [2, *vit.patch_embed.patch_size]
            config.hidden_act = "gelu_pytorch_tanh"  # the same function as its "gelu_fast", in a single kernel
        config._attn_implementation = "eager" if name == "Timesformer" else "sdpa"
        model = getattr(transformers, f"{name}ForVideoClassification")(config)
        if name == "Timesformer":
            _fuse_attention(model.timesformer)
        return _Adapter(model, lambda model, clips: model(pixel_values=clips).logits)

    return BenchmarkModel(build, f"transformers, sdpa attention, {note}")


def _torchvision_model(name: str, frames: tuple[int, ...] = ()) -> BenchmarkModel:
    def build(backbone: str, num_frames: int) -> nn.Module:
        from torchvision.models import video

        model = getattr(video, name)(num_classes=NUM_CLASSES)
        return _Adapter(model, lambda model, clips: model(clips.transpose(1, 2)))  # it takes (B, C, T, H, W)

    return BenchmarkModel(build, "torchvision, its own size", frames, image_size=224)


MODELS: Mapping[str, BenchmarkModel] = {
    IMAGE_MODEL: BenchmarkModel(_image_model, "timm's ViT applied to each frame"),
    "xvit mixing alone": BenchmarkModel(
        _mixing_alone, "the image model with mixing; no temporal head, no class-token shortcut in the last block"
    ),
    "xvit mixing": _xvit("defaults of create_model"),
    "xvit mixing, tubelet 2": _xvit(tubelet_size=2),
    "xvit mixing, tubelet 2, merge 12, mean": _xvit(tubelet_size=2, tome_r=12, temporal_head="mean"),
    "xvit spatial": _xvit(attention="spatial"),
    "xvit local": _xvit(": exact attention over 3 frames", attention="local"),
    "xvit joint": _xvit(attention="joint"),
    "xvit divided": _xvit(attention="divided"),
    "TimeSformer": _transformers_model("Timesformer", "which the library lacks for it"),
    "ViViT": _transformers_model("Vivit", "2-frame tubelets"),
    "VideoMAE": _transformers_model("VideoMAE", "2-frame tubelets"),
    "MViT v2 small": _torchvision_model("mvit_v2_s", frames=(16,)),
    "Video Swin small": _torchvision_model("swin3d_s"),
}


def check_model_name(name: str) -> None:
    """Raise `XViTError` with the nearest name and all names, unless `name` is one of `MODELS`."""
    if name not in MODELS:
        known = ", ".join(f'"{model}"' for model in MODELS)
        raise XViTError(f'--models: unknown model "{name}".{did_you_mean(name, MODELS)} Known: {known}')


def build_model(name: str, *, backbone: str, frames: int, **options: Any) -> nn.Module:
    """A model of `MODELS` with random weights, the same in each call.

    Args:
        name: one of `MODELS`.
        backbone: the timm model whose size it has.
        frames: T, frames per clip.
        options: for the models of xvit those of `create_model`; for those of transformers `backbone_kwargs`, the
            backbone's img_size, patch_size and the like.

    Raises:
        XViTError: an unknown name, or a model whose package is not installed.
    """
    check_model_name(name)
    torch.manual_seed(0)
    return MODELS[name].build(backbone, num_frames=frames, **options)
