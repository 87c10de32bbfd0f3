"""The image model of an XViT: timm builds it, with a scheme as its attention."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import Attention, AttentionRope, build_sincos2d_pos_embed
from timm.models import get_model_args
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from xvit.config import ClipSpec, ModelConfig
from xvit.models.attention import EVA_SCHEMES, SCHEMES
from xvit.utils.errors import XViTError, check_range, did_you_mean

_OF_LOADING = ("cache_dir", "device", "dtype", "feature_cfg", "pretrained_cfg", "pretrained_cfg_overlay")
Backbone = VisionTransformer | Eva
SUPPORTED = (
    "timm's VisionTransformer and Eva models with attention of the usual kinds (xvit info --backbones lists them)"
)


class LastBlock(Block):
    """timm's block, which can leave out what nobody reads after the last layer where the class tokens alone are pooled:
    the attention, projection and MLP of all others. Their keys and values are all that is needed of them.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, *, class_token_only: bool = False
    ) -> Tensor:
        """Tokens (B, T, N, D) to (B, T, N, D), or to each frame's first alone, (B, T, 1, D)."""
        if not class_token_only:
            out: Tensor = super().forward(x, attn_mask, is_causal)
            return out
        first = self.attn(self.norm1(x), attn_mask, is_causal, class_token_only=True)
        first = x[:, :, :1] + self.drop_path1(self.ls1(first))
        return first + self.drop_path2(self.ls2(self.mlp(self.norm2(first))))


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the timm model of `config` without its classifier, its attention layers of the config's scheme, its weights
    random.

    Raises:
        XViTError: an unknown name or option, or a model that cannot take a scheme.
    """
    for name, reason in {
        "attn_layer": "the scheme is set by attention=",
        "num_classes": "it is an option of its own",
        "pretrained": "it is an option of its own",
        "checkpoint_path": "it is an option of its own",
    }.items():
        if name in config.backbone_kwargs:
            raise XViTError(f"backbone_kwargs[{name!r}]: not here, {reason}")
    for name in _OF_LOADING:
        if name in config.backbone_kwargs:
            raise XViTError(f"backbone_kwargs[{name!r}]: not here, it is no setting of the model")
    if config.backbone_kwargs.get("patch_drop_rate"):
        raise XViTError("backbone_kwargs['patch_drop_rate']: dropping patches would part a location's tokens in time")
    depth: Any = config.backbone_kwargs.get("depth", 1)
    check_range("backbone_kwargs['depth']", depth, 1, 1000)
    options: dict[str, Any] = {"dynamic_img_size": True, "num_classes": 0, **config.backbone_kwargs}
    if config.tubelet > 1:
        options["in_chans"] = options.get("in_chans", 3) * config.tubelet
    plain = _on_meta(config.backbone, options)
    _check_takes_scheme(config.backbone, plain)
    if isinstance(plain, Eva):  # takes no attn_layer
        backbone = _create(config.backbone, **options)
        for attention in _attentions(backbone):
            attention.__class__ = EVA_SCHEMES[config.attention]
    else:
        backbone = _create(config.backbone, attn_layer=SCHEMES[config.attention], **options)
    if _reads_class_tokens_alone(backbone):
        backbone.blocks[-1].__class__ = LastBlock
    if config.spatial_position == "sincos":
        _set_sincos_positions(backbone)
    return backbone


def _reads_class_tokens_alone(backbone: Backbone) -> bool:
    """Whether a frame's vector is its class token and nothing else (distilled models read a second token)."""
    return (
        type(backbone.blocks[-1]) is Block
        and backbone.global_pool == "token"
        and backbone.attn_pool is None
        and type(backbone).forward_head is VisionTransformer.forward_head
    )


def config_of(model: Backbone, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options that build a timm model like one that is built.

    Args:
        model: as timm.create_model gave it.
        options: over those that timm remembers of it.

    Raises:
        XViTError: not a `VisionTransformer` or `Eva` of timm's, one that timm did not build, or that was changed since.
    """
    if not isinstance(model, Backbone):
        raise XViTError(f"a {type(model).__name__} as backbone: expected a name, or one of {SUPPORTED}")
    known: dict[str, Any] = model.pretrained_cfg if hasattr(model, "pretrained_cfg") else {}  # type: ignore[assignment]
    name, tag = known.get("architecture") or "", known.get("tag")
    if not timm.is_model(name):
        raise XViTError("the given model was not built by timm.create_model: give its name, and checkpoint_path")
    name = f"{name}.{tag}" if tag and timm.is_model_pretrained(f"{name}.{tag}") else name
    options = {key: value for key, value in get_model_args(model).items() if key != "num_classes"} | dict(options)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    plain = _on_meta(name, options)
    _check_takes_scheme(name, model)
    unlike = [part for part in _PARTS if repr(getattr(model, part, None)) != repr(getattr(plain, part, None))]
    shapes, built = (
        {n: t.shape for n, t in m.state_dict().items() if not n.startswith("head.")} for m in (plain, model)
    )
    if unlike or shapes != built:
        raise XViTError(
            f"the given {name} is not as timm builds it (its {', '.join(unlike) or 'tensors'} differ): if it was given "
            "drop rates, hand them over as backbone_kwargs={...}"
        )
    return name, options


_PARTS = ("patch_embed", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm")  # whose settings a print shows


def _on_meta(name: str, options: Mapping[str, Any]) -> Backbone:
    if timm.models.is_model_in_modules(name, ["vision_transformer"]):
        options = {**options, "weight_init": "skip"}
    with torch.device("meta"):  # costs nothing
        built: Backbone = _create(name, **({"num_classes": 0} | dict(options)))
        return built


def _attentions(model: Any) -> list[Any]:
    """Its attention layers of the kinds that can become a scheme."""
    return [module for module in model.blocks.modules() if type(module) in (Attention, EvaAttention, AttentionRope)]


def complete_clip(clip: ClipSpec, backbone: Backbone) -> ClipSpec:
    """`clip` with what it leaves open as the image model was trained: size, interpolation, mean and std."""
    known: dict[str, Any] = resolve_model_data_config(backbone)
    interpolation: Any = known["interpolation"] if known["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    return replace(
        clip,
        image_size=clip.image_size or min(backbone.patch_embed.img_size),
        interpolation=interpolation if clip.interpolation == "backbone" else clip.interpolation,
        mean=clip.mean or known["mean"],
        std=clip.std or known["std"],
    )


def mixing_layers(layers: str | tuple[int, ...], depth: int) -> set[int]:
    """The indices of the mixing layers among `depth`; see `ModelConfig.layers`.

    Raises:
        XViTError: an index beyond the depth.
    """
    if isinstance(layers, str):
        half = depth // 2
        return {
            "all": set(range(depth)),
            "first_half": set(range(half)),
            "second_half": set(range(half, depth)),
            "odd": set(range(0, depth, 2)),
        }[layers]
    for layer in layers:
        if not 0 <= layer < depth:
            raise XViTError(f"layers={layers}: layer {layer} of a backbone with layers 0 to {depth - 1}")
    return set(layers)


def check_can_merge(config: ModelConfig, backbone: Backbone) -> None:
    """Raise `XViTError` if tokens of the model cannot be merged."""
    given = f"merge_tokens={config.merge_tokens}"
    if config.attention not in ("mixing", "spatial"):
        raise XViTError(f"{given} with attention={config.attention!r}: expected 'mixing' or 'spatial'")
    if config.summary_tokens:
        raise XViTError(f"{given} with summary_tokens={config.summary_tokens}: merged patches are no grid to summarise")
    if not isinstance(backbone.blocks[-1], LastBlock):
        raise XViTError(f"{given} with backbone={config.backbone!r}: only for plain blocks whose class token is pooled")


def _set_sincos_positions(backbone: Backbone) -> None:
    """Start from 2-D sines and cosines, where random positions would first have to be told apart."""
    if backbone.pos_embed is None or backbone.embed_dim % 4:
        raise XViTError("spatial_position='sincos': needs a backbone with positions and a multiple of 4 channels")
    grid = backbone.patch_embed.grid_size
    # Wavelengths from 6 to 60 patches: what tells the places of a grid of 4 to 32 patches apart. An amplitude over that
    # of the patches' content: a small model first has to learn where things are (measured on the motion data).
    positions = 2.0 * build_sincos2d_pos_embed(list(grid), backbone.embed_dim, temperature=10.0)
    with torch.no_grad():
        backbone.pos_embed[0, -len(positions) :] = positions  # after those of the prefix tokens, if there are any


def _create(name: str, **options: Any) -> Any:
    if not timm.is_model(name):
        raise XViTError(f"backbone={name!r}: timm has no such model.{did_you_mean(name, timm.list_models())}")
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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise XViTError(f"backbone={name!r} with backbone_kwargs {options}: timm cannot build it ({reason})") from None


def _check_takes_scheme(name: str, plain: Any) -> None:
    if not isinstance(plain, Backbone):
        raise XViTError(f"backbone={name!r} is a {type(plain).__name__}, not one of {SUPPORTED}")
    for block in plain.blocks:
        if not any(type(module) in (Attention, EvaAttention, AttentionRope) for module in block.modules()):
            kinds = sorted({type(m).__name__ for m in block.modules() if "Attention" in type(m).__name__})
            found = f"attention of its own ({', '.join(kinds)})" if kinds else "no attention module"
            raise XViTError(
                f"backbone={name!r}: its {type(block).__name__} has {found}, so it cannot take a scheme; "
                f"expected one of {SUPPORTED}"
            )
