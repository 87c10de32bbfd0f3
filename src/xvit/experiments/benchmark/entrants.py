"""The models that are compared: ours with each scheme, timm's image model, and the peers at their best setting.

All take clips (B, T, C, H, W) of the same frames. Those that can have the size of the backbone asked for (ViT-B/16: 12
layers of 768 channels, patches of 16 px) have it; MViT v2 and Video Swin have none such and take part with their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from xvit.models.factory import create_model
from xvit.utils.errors import XViTError, did_you_mean, import_optional

CLASSES = 400
OWN_IMAGE_SIZE = 224  # of the models of torchvision


class _AsImages(nn.Module):
    """An image model on each frame by itself: what a video model cannot be cheaper than without looking at less."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.model(clips.flatten(0, 1))
        return logits


class _FramesLast(nn.Module):
    """torchvision's video models take (B, C, T, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.model(clips.transpose(1, 2))
        return logits


class _Logits(nn.Module):
    """transformers' models answer with more than the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=clips).logits
        return logits


@dataclass(frozen=True)
class Entrant:
    """A model that takes part.

    Args:
        build: called with the backbone's name and T.
        about: what it is, in a few words.
        frames: the numbers of frames that it takes; empty for any.
        own_size: not the size of the backbone that is asked for, nor its picture's.
    """

    build: Callable[[str, int], nn.Module]
    about: str
    frames: tuple[int, ...] = ()
    own_size: bool = False

    def takes(self, frames: int) -> bool:
        """Whether it takes clips of that many frames."""
        return not self.frames or frames in self.frames


def _ours(**options: Any) -> Callable[[str, int], nn.Module]:
    def build(backbone: str, frames: int) -> nn.Module:
        return create_model(backbone, num_classes=CLASSES, num_frames=frames, **options)

    return build


def _image_model(backbone: str, frames: int) -> nn.Module:
    return _AsImages(timm.create_model(backbone, num_classes=CLASSES))


def _mixing_alone(backbone: str, frames: int) -> nn.Module:
    model = create_model(backbone, num_classes=CLASSES, num_frames=frames, temporal_head="mean")
    model.class_token_only = False
    return model


def _of_transformers(kind: str, *, attention: str) -> Callable[[str, int], nn.Module]:
    def build(backbone: str, frames: int) -> nn.Module:
        transformers = import_optional("transformers", extra="benchmark")
        with torch.device("meta"):  # to read its sizes off
            size: Any = timm.create_model(backbone, num_classes=0)
        config = getattr(transformers, f"{kind}Config")(
            num_frames=frames,
            num_labels=CLASSES,
            image_size=size.patch_embed.img_size[0],
            patch_size=size.patch_embed.patch_size[0],
            hidden_size=size.embed_dim,
            num_hidden_layers=len(size.blocks),
            num_attention_heads=size.blocks[0].attn.num_heads,
            intermediate_size=size.blocks[0].mlp.fc1.out_features,
        )
        if kind == "Vivit":
            config.tubelet_size = [2, *size.patch_embed.patch_size]
            config.hidden_act = "gelu_pytorch_tanh"  # its "gelu_fast", computed in one pass instead of several
        config._attn_implementation = attention
        return _Logits(getattr(transformers, f"{kind}ForVideoClassification")(config))

    return build


def _of_torchvision(name: str) -> Callable[[str, int], nn.Module]:
    def build(backbone: str, frames: int) -> nn.Module:
        from torchvision.models import video

        return _FramesLast(getattr(video, name)(num_classes=CLASSES))

    return build


ENTRANTS: Mapping[str, Entrant] = {
    "image model": Entrant(_image_model, "timm's ViT on each frame by itself"),
    "xvit mixing alone": Entrant(_mixing_alone, "the image model with mixing: no temporal head, no shortcut"),
    "xvit mixing": Entrant(_ours(), "as create_model makes it"),
    "xvit mixing, tubelet 2": Entrant(_ours(tubelet_size=2), "tubelet_size=2"),
    "xvit mixing, tubelet 2, merge 12, mean": Entrant(
        _ours(tubelet_size=2, tome_r=12, temporal_head="mean"), "tubelet_size=2, tome_r=12, temporal_head='mean'"
    ),
    "xvit spatial": Entrant(_ours(attention="spatial"), "attention='spatial'"),
    "xvit local": Entrant(_ours(attention="local"), "attention='local': exact over 3 frames"),
    "xvit joint": Entrant(_ours(attention="joint"), "attention='joint'"),
    "xvit divided": Entrant(_ours(attention="divided"), "attention='divided'"),
    "TimeSformer": Entrant(_of_transformers("Timesformer", attention="eager"), "transformers, eager: it has no sdpa"),
    "ViViT": Entrant(_of_transformers("Vivit", attention="sdpa"), "transformers, sdpa; 2-frame tubelets"),
    "VideoMAE": Entrant(_of_transformers("VideoMAE", attention="sdpa"), "transformers, sdpa; 2-frame tubelets"),
    "MViT v2 small": Entrant(_of_torchvision("mvit_v2_s"), "torchvision, its own size", (16,), True),
    "Video Swin small": Entrant(_of_torchvision("swin3d_s"), "torchvision, its own size", own_size=True),
}


def build(name: str, *, backbone: str, frames: int, seed: int = 0) -> nn.Module:
    """The model of that name, of random weights.

    Raises:
        XViTError: no such model, one that needs a package that is not installed.
    """
    if name not in ENTRANTS:
        raise XViTError(f"models: {name!r}: unknown.{did_you_mean(name, ENTRANTS)} Known: {', '.join(ENTRANTS)}")
    torch.manual_seed(seed)
    return ENTRANTS[name].build(backbone, frames)
