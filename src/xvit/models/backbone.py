"""The image model of an XViT: built by timm, with an attention scheme."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import Attention, AttentionRope, build_sincos2d_pos_embed
from timm.models import get_model_args
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from xvit.config import ClipSpec, ModelConfig
from xvit.models.attention import (
    EVA_SCHEMES,
    SCHEMES,
    DividedAttention,
    LocalAttention,
    MixingAttention,
    SpatialAttention,
)
from xvit.models.mixing import MixingPattern, channel_slices, temporal_offsets
from xvit.utils.errors import XViTError, did_you_mean, one_line

_NOT_MODEL_OPTIONS = ("cache_dir", "device", "dtype", "feature_cfg", "pretrained_cfg", "pretrained_cfg_overlay")
Backbone = VisionTransformer | Eva
_ATTENTION_TYPES = (Attention, EvaAttention, AttentionRope)  # those that a scheme can replace
SUPPORTED = "timm's VisionTransformer and Eva models with standard attention (xvit info --list-backbones shows them)"


class ClassTokenBlock(Block):
    """timm's block as the last layer of a model that pools class tokens only: it can skip the attention, projection and
    MLP of all other tokens. Only their keys and values are needed.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, *, class_token_only: bool = False
    ) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D), or to each frame's first token, (B, T, 1, D)."""
        if not class_token_only:
            out: Tensor = super().forward(x, attn_mask, is_causal)
            return out
        first = self.attn(self.norm1(x), attn_mask, is_causal, class_token_only=True)
        first = x[:, :, :1] + self.drop_path1(self.ls1(first))
        return first + self.drop_path2(self.ls2(self.mlp(self.norm2(first))))


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the timm model of `config`, without a classifier, with the config's attention scheme and random weights.

    Raises:
        XViTError: an unknown name or option, or a model that cannot use the scheme.
    """
    for name, reason in {
        "attn_layer": "use attention=",
        "num_classes": "use num_classes=",
        "pretrained": "use pretrained=",
        "checkpoint_path": "use checkpoint_path=",
    }.items():
        if name in config.backbone_kwargs:
            raise XViTError(f"backbone_kwargs[{name!r}] is not allowed: {reason}")
    for name in _NOT_MODEL_OPTIONS:
        if name in config.backbone_kwargs:
            raise XViTError(f"backbone_kwargs[{name!r}] is not allowed: it does not describe the model")
    if config.backbone_kwargs.get("patch_drop_rate"):
        raise XViTError("patch dropout is not supported: mixing needs the same patches in every frame")
    options: dict[str, Any] = {"dynamic_img_size": True, "num_classes": 0, **config.backbone_kwargs}
    if config.tubelet_size > 1:
        options["in_chans"] = options.get("in_chans", 3) * config.tubelet_size
    image_model = _build_on_meta(config.backbone, options)
    _check_supports_schemes(config.backbone, image_model)
    if isinstance(image_model, Eva):  # it has no option attn_layer
        backbone = cast(Backbone, _create(config.backbone, **options))
        for attention in _find_attention_layers(backbone):
            attention.__class__ = EVA_SCHEMES[config.attention]
    else:
        backbone = cast(Backbone, _create(config.backbone, attn_layer=SCHEMES[config.attention], **options))
    if _pools_class_tokens_only(backbone):
        backbone.blocks[-1].__class__ = ClassTokenBlock
    if config.advanced.spatial_position == "sincos":
        _set_sincos_positions(backbone)
    _configure_attention(backbone, config)
    return backbone


def _pools_class_tokens_only(backbone: Backbone) -> bool:
    """Whether a frame's vector is its class token only (distilled models use a second token)."""
    return (
        type(backbone.blocks[-1]) is Block
        and backbone.global_pool == "token"
        and backbone.attn_pool is None
        and type(backbone).forward_head is VisionTransformer.forward_head
    )


def _configure_attention(backbone: Backbone, config: ModelConfig) -> None:
    """Set what the attention layers of the scheme need to know beyond timm's own arguments."""
    if config.summary_tokens and config.attention in ("local", "joint"):
        raise XViTError(
            f"summary_tokens={config.summary_tokens} with attention={config.attention!r}: its queries attend to other "
            "frames' tokens already"
        )
    if config.summary_tokens > (patches := backbone.patch_embed.num_patches):
        raise XViTError(f"summary_tokens={config.summary_tokens}: expected at most one per patch of a frame, {patches}")
    if config.tome_r:
        _check_token_merging(config, backbone)
    mixing_layers = select_mixing_layers(config.advanced.mixing_layers, len(backbone.blocks))
    for index, block in enumerate(backbone.blocks):
        for layer in block.modules():
            if not isinstance(layer, SpatialAttention):
                continue
            layer.summary_tokens = config.summary_tokens
            layer.causal_summaries = config.causal
            layer.summary_window = config.num_frames // config.tubelet_size
            layer.num_prefix_tokens = backbone.num_prefix_tokens
            if isinstance(layer, LocalAttention):
                layer.window = config.window
            elif isinstance(layer, DividedAttention):
                layer.add_temporal_layers()
            elif isinstance(layer, MixingAttention) and index in mixing_layers:
                layer.pattern = build_pattern(config, layer.num_heads, layer.head_dim)


def build_pattern(config: ModelConfig, num_heads: int, head_dim: int) -> MixingPattern:
    """The mixing pattern of a layer with `num_heads` heads of `head_dim` channels.

    Raises:
        XViTError: there are too few channels to divide.
    """
    advanced = config.advanced
    per_head = advanced.grouping == "per_head"
    offsets = temporal_offsets(config.window, boundary_only=advanced.boundary_only, causal=config.causal)
    return MixingPattern(
        slices=channel_slices(head_dim if per_head else num_heads * head_dim, config.mix_ratio, offsets),
        inputs=advanced.mix_inputs,
        per_head=per_head,
        replicate=advanced.temporal_padding == "replicate",
        segment_frames=advanced.segment_frames // config.tubelet_size,  # the window counts tubelets already
    )


def infer_backbone_config(model: Backbone, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and options with which timm builds a model like the given one.

    Args:
        model: built by timm.create_model.
        options: override those that timm recorded in it.

    Raises:
        XViTError: not a `VisionTransformer` or `Eva`, not built by timm, or changed since.
    """
    if not isinstance(model, Backbone):
        raise XViTError(f"a {type(model).__name__} as backbone: expected a name, or one of {SUPPORTED}")
    known: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    name, tag = known.get("architecture") or "", known.get("tag")
    if not timm.is_model(name):
        raise XViTError("the given model was not built by timm.create_model: pass its name and checkpoint_path instead")
    name = f"{name}.{tag}" if tag and timm.is_model_pretrained(f"{name}.{tag}") else name
    options = {key: value for key, value in get_model_args(model).items() if key != "num_classes"} | dict(options)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    expected = _build_on_meta(name, options)
    _check_supports_schemes(name, model)
    changed = [part for part in _PARTS if repr(getattr(model, part, None)) != repr(getattr(expected, part, None))]
    shapes, expected_shapes = (
        {n: t.shape for n, t in m.state_dict().items() if not n.startswith("head.")} for m in (model, expected)
    )
    if changed or shapes != expected_shapes:
        raise XViTError(
            f"the given {name} differs from what timm builds (in {', '.join(changed) or 'its tensors'}): if it has "
            "drop rates, pass them as backbone_kwargs={...} too"
        )
    return name, options


_PARTS = (
    "patch_embed",
    "norm_pre",
    "blocks",
    "norm",
    "attn_pool",
    "fc_norm",
)  # their repr shows their settings


def _build_on_meta(name: str, options: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):  # takes no memory and no time
        return _create(name, **({"num_classes": 0} | dict(options)))


def _find_attention_layers(model: Backbone) -> list[nn.Module]:
    """Its attention layers that can become a scheme's."""
    return [module for module in model.blocks.modules() if type(module) in _ATTENTION_TYPES]


def resolve_clip_spec(clip_spec: ClipSpec, backbone: Backbone) -> ClipSpec:
    """Fill the open fields of a clip spec from the image model's data config: size, interpolation, mean and std.

    A frame rate that was to be learnt is unknown without training videos: the frames of each video are counted.
    """
    known: dict[str, Any] = resolve_model_data_config(backbone)
    interpolation: Any = known["interpolation"] if known["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    return replace(
        clip_spec,
        frame_rate=clip_spec.frame_rate or None,
        image_size=clip_spec.image_size or min(backbone.patch_embed.img_size),
        interpolation=interpolation if clip_spec.interpolation == "backbone" else clip_spec.interpolation,
        mean=clip_spec.mean or known["mean"],
        std=clip_spec.std or known["std"],
    )


def select_mixing_layers(layers: str | tuple[int, ...], depth: int) -> set[int]:
    """The indices of the mixing layers among `depth`; see `AdvancedConfig.mixing_layers`.

    Raises:
        XViTError: an index beyond the depth.
    """
    if isinstance(layers, str):
        half = depth // 2
        return {
            "all": set(range(depth)),
            "first_half": set(range(half)),
            "second_half": set(range(half, depth)),
            "odd": set(range(0, depth, 2)),  # the 1st, 3rd, ...
        }[layers]
    for layer in layers:
        if not 0 <= layer < depth:
            raise XViTError(f"mixing_layers={layers}: the backbone has layers 0 to {depth - 1}, not {layer}")
    return set(layers)


def _check_token_merging(config: ModelConfig, backbone: Backbone) -> None:
    given = f"tome_r={config.tome_r}"
    if config.attention not in ("mixing", "spatial"):
        raise XViTError(f"{given} with attention={config.attention!r}: expected 'mixing' or 'spatial'")
    if config.summary_tokens:
        raise XViTError(f"{given} with summary_tokens={config.summary_tokens}: merged patches do not form a grid")
    if not isinstance(backbone.blocks[-1], ClassTokenBlock):
        raise XViTError(
            f"{given} with backbone={config.backbone!r}: token merging needs standard blocks and class-token pooling"
        )


def _set_sincos_positions(backbone: Backbone) -> None:
    """Initialise the positions with 2-D sines and cosines, so that they differ from the first step on."""
    if backbone.pos_embed is None or backbone.embed_dim % 4:
        raise XViTError("spatial_position='sincos' needs a backbone with positions and a multiple of 4 channels")
    grid = backbone.patch_embed.grid_size
    # Wavelengths from 6 to 60 patches distinguish the locations of a grid of 4 to 32 patches. The amplitude is above
    # that of the patches' content: a small model has to learn first where things are (measured on the motion data).
    positions = 2.0 * build_sincos2d_pos_embed(list(grid), backbone.embed_dim, temperature=10.0)
    with torch.no_grad():
        backbone.pos_embed[0, -len(positions) :] = positions  # after those of the prefix tokens


def _create(name: str, **options: Any) -> nn.Module:
    if not timm.is_model(name):
        raise XViTError(f"backbone={name!r}: timm has no such model.{did_you_mean(name, timm.list_models())}")
    on_meta = torch.get_default_device().type == "meta"  # where random numbers take time and have no effect
    if on_meta and timm.models.is_model_in_modules(name, ["vision_transformer"]):
        options["weight_init"] = "skip"
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        known = inspect.signature(VisionTransformer).parameters
        unknown = [option for option in options if option not in known]
        hint = "".join(did_you_mean(option, known) for option in unknown)
        if "attn_layer" in str(error) or "weight_init" in str(error) or "dynamic_img_size" in str(error):
            raise XViTError(f"backbone={name!r}: not one of {SUPPORTED}") from None
        raise XViTError(f"backbone={name!r} with backbone_kwargs {options}: {error}.{hint}") from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, ValueError, OSError) as error:
        reason = one_line(error, name=True)
        raise XViTError(f"backbone={name!r} with backbone_kwargs {options}: timm cannot build it ({reason})") from None


def _check_supports_schemes(name: str, model: nn.Module) -> None:
    if not isinstance(model, VisionTransformer | Eva):
        raise XViTError(f"backbone={name!r} is a {type(model).__name__}; expected one of {SUPPORTED}")
    for block in model.blocks:
        if not any(type(module) in _ATTENTION_TYPES for module in block.modules()):
            kinds = sorted({type(m).__name__ for m in block.modules() if "Attention" in type(m).__name__})
            found = f"other attention ({', '.join(kinds)})" if kinds else "no attention module"
            raise XViTError(
                f"backbone={name!r}: its {type(block).__name__} has {found}, so it cannot use an attention scheme; "
                f"expected one of {SUPPORTED}"
            )
