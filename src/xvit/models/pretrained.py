"""Weights to start from: an image model's, or those of an XViT of another kind; and a report of what became of them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import adapt_input_conv, eva, load_state_dict, load_state_dict_from_hf, vision_transformer
from torch import Tensor

from xvit.checkpoint import format as checkpoint
from xvit.config import ModelConfig
from xvit.models.backbone import Backbone
from xvit.models.temporal import resize_positions
from xvit.utils.errors import XViTError

_logger = logging.getLogger("xvit")
_NOT_OF_IMAGES = ("backbone.head", "backbone.attn_pool", "backbone.blocks")  # a classifier's, or checked by themselves


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the tensors of a source, and where those of the model come from; names are the model's, those
    dropped the source's.

    Args:
        source: file, directory or name on the Hub.
        loaded: taken as they are.
        resized: taken at another size: shape in the source, shape in the model.
        new: not in the source, so still as initialised.
        dropped: in the source, but not used.
    """

    source: str
    loaded: tuple[str, ...] = ()
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.resized:
            parts.append("resized " + ", ".join(f"{n} {old} -> {new}" for n, (old, new) in self.resized.items()))
        for what, names in (("new", self.new), ("dropped", self.dropped)):
            if names:
                parts.append(f"{what} {_grouped(names)}")
        return f"{self.source}: {'; '.join(parts)}"


def load_start(model: Any, config: ModelConfig) -> LoadReport:
    """Load what `config` starts from into a new XViT, and log the report.

    Args:
        model: the XViT; its tensors are overwritten in place; those that the source does not have stay as they are.
        config: with `pretrained` or `checkpoint_path`.

    Raises:
        XViTError: no such source, a damaged or hostile file, one that lacks a tensor of the backbone's blocks or has
            it in a shape that cannot be resized, an XViT of another backbone.
    """
    if Path(config.checkpoint_path).is_dir() and config.checkpoint_path:
        source, state = config.checkpoint_path, _of_xvit(Path(config.checkpoint_path), model, config)
        image = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    else:
        source, image = _of_file(config.checkpoint_path) if config.checkpoint_path else _of_hub(config.backbone)
        rest = {}
    return load_tensors(model, config.backbone, image, rest, source=source)


def load_tensors(
    model: Any, name: str, image: Mapping[str, Tensor], rest: Mapping[str, Tensor], *, source: str
) -> LoadReport:
    """Load tensors into a new XViT, resizing positions and patches where their numbers differ, and log the report.

    Args:
        model: the XViT.
        name: of its backbone.
        image: of an image model, in any naming timm knows.
        rest: of an XViT beside its backbone, named as there.
        source: where they come from, for texts.

    Raises:
        XViTError: a tensor of the backbone's blocks is missing or of a shape that cannot be resized.
    """
    fitted = {f"backbone.{key}": tensor for key, tensor in _fit_image(model, name, image, source).items()}
    fitted |= rest
    expected = model.state_dict()
    for key, tensor in rest.items():
        if key.endswith("position.weight") and key in expected and tensor.ndim == 3:
            fitted[key] = resize_positions(tensor, expected[key].shape[1])
    usable = {key: t for key, t in fitted.items() if key in expected and t.shape == expected[key].shape}
    new = tuple(key for key in expected if key not in usable)
    _check_blocks(source, new, fitted, expected)
    for key, tensor in usable.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise XViTError(
                f"{source}: {key} of {tensor.dtype}, {tensor.layout}: expected a plain floating-point tensor"
            )
    if lost := [key for key in new if key.startswith("backbone.") and not key.startswith(_NOT_OF_IMAGES)]:
        _logger.warning("%s: starts at random, though part of the image model: %s", source, _grouped(lost))
    with torch.no_grad():
        for key, tensor in usable.items():
            expected[key].copy_(tensor)
    given = {f"backbone.{key}": tensor for key, tensor in image.items()} | dict(rest)
    resized = {
        key: (tuple(given[key].shape), tuple(tensor.shape))
        for key, tensor in usable.items()
        if key in given and given[key].shape != tensor.shape
    }
    report = LoadReport(
        source=source,
        loaded=tuple(key for key in usable if key not in resized),
        resized=resized,
        new=new,
        dropped=tuple(key for key in fitted if key not in usable),
    )
    _logger.info("%s", report)
    return report


def _fit_image(model: Any, name: str, image: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors by timm's names, positions (bicubic) and patches resized to the backbone, by timm's own function."""
    backbone: Backbone = model.backbone
    # What timm itself asks for where it builds these families: they were trained to be resized bilinearly, or their
    # files have other names.
    options: dict[str, Any] = {}
    if "flexi" in name or "radio" in name:
        options = {"interpolation": "bilinear", "antialias": False}
    if name.startswith(("vit_base_patch16_radio_v3", "vit_huge_patch16_radio_v3")):
        options["align_corners"] = True
    if "deit3" in name:
        options["adapt_layer_scale"] = True
    try:
        family = eva if isinstance(backbone, eva.Eva) else vision_transformer
        stem = image.get("patch_embed.proj.weight")
        if stem is not None and stem.ndim == 4 and stem.shape[1] != backbone.patch_embed.proj.weight.shape[1]:
            if stem.shape[1] != model.channels:
                stem = adapt_input_conv(model.channels, stem, base_chans=stem.shape[1])
            tubelet = model.config.tubelet  # each of its frames gets an equal part: a still clip has the same tokens
            image = {**image, "patch_embed.proj.weight": stem.repeat(1, tubelet, 1, 1) / tubelet}
        fitted = family.checkpoint_filter_fn(dict(image), backbone, **options)
        return {key: tensor for key, tensor in fitted.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # timm's functions on the names and shapes of any file
        reason = " ".join(str(error).split())[:200]
        raise XViTError(f"{source}: cannot be fitted to backbone {name}: {type(error).__name__}: {reason}") from None


def _check_blocks(source: str, new: Iterable[str], found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    # temporal: what divided attention adds to the image model
    needed = [
        key for key in new if key.startswith(("backbone.blocks.", "backbone.patch_embed.")) and ".temporal" not in key
    ]
    missing = [key for key in needed if key not in found]
    if missing:
        raise XViTError(f"{source}: not weights of this backbone: {len(missing)} tensors missing, first {missing[0]}")
    if needed:
        key = needed[0]
        shapes = f"{tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        raise XViTError(f"{source}: not weights of this backbone: {len(needed)} of a wrong shape, first {key} {shapes}")


def _of_file(path: str) -> tuple[str, dict[str, Tensor]]:
    if not Path(path).is_file():
        raise XViTError(f"checkpoint_path={path!r}: no such file or directory")
    try:
        return path, dict(load_state_dict(path))  # timm's, which runs nothing that is in the file
    except (SafetensorError, OSError, EOFError, ValueError, TypeError) as error:
        raise XViTError(f"{path}: damaged, or not a checkpoint: {' '.join(str(error).split())[:200]}") from None
    except Exception as error:  # pickle's own errors, whatever a hostile file holds
        reason = " ".join(str(error).split())[:200]
        raise XViTError(
            f"{path}: not a file of tensors alone, so not loaded ({type(error).__name__}: {reason})"
        ) from None


def _of_hub(name: str) -> tuple[str, dict[str, Tensor]]:
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        tags = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        hint = f"; with weights: {', '.join(tags[:5])}" if tags else ""
        raise XViTError(f"pretrained=True: there are no image weights of backbone {name} on the Hub{hint}")
    source = str(known.hf_hub_id)
    options: dict[str, Any] = {"filename": known.hf_hub_filename} if known.hf_hub_filename else {}
    try:
        return f"{source} (Hugging Face Hub)", load_state_dict_from_hf(source, weights_only=True, **options)
    except Exception as error:  # of the network, the Hub and its cache: many kinds
        reason = " ".join(str(error).split())[:200]
        raise XViTError(
            f"pretrained=True: {source} cannot be had from the Hugging Face Hub or its local cache: {reason}. "
            "Elsewhere downloaded weights go in by checkpoint_path"
        ) from None


def _of_xvit(directory: Path, model: Any, config: ModelConfig) -> dict[str, Tensor]:
    found = checkpoint.find(directory)
    checkpoint.tensor_shapes(found / checkpoint.WEIGHTS)  # which says what is wrong with a damaged file
    other = checkpoint.read_description(found).model
    if other.backbone.split(".")[0] != config.backbone.split(".")[0]:
        raise XViTError(f"{directory}: an XViT of backbone {other.backbone}, not of {config.backbone}")
    with torch.device("meta"):  # weights to start from are not read: a description has none
        theirs = [attention.num_heads for attention in type(model)(other).attentions]
    ours = [attention.num_heads for attention in model.attentions]
    if theirs != ours:  # the shapes would not tell
        raise XViTError(
            f"{directory}: an XViT of {theirs[:1]} heads in {len(theirs)} layers, not {ours[:1]} in {len(ours)}"
        )
    state = checkpoint.load_file(found / checkpoint.WEIGHTS)
    if other.tubelet > config.tubelet:  # patches of one frame: the sum over the tubelet's, as a still clip sees it
        stem = state["backbone.patch_embed.proj.weight"]
        state["backbone.patch_embed.proj.weight"] = stem.unflatten(1, (other.tubelet, -1)).sum(dim=1)
    return state


def _grouped(names: Iterable[str]) -> str:
    """Names by their first two parts, with how many of each: `temporal_head (13), backbone.head (2)`."""
    counts = Counter(".".join(name.split(".")[: 2 if name.startswith("backbone.") else 1]) for name in names)
    return ", ".join(f"{group} ({count})" if count > 1 else group for group, count in counts.items())
