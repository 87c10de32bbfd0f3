"""Initial weights: an image model's, or those of an XViT of another kind."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from timm.models import adapt_input_conv, eva, load_state_dict, load_state_dict_from_hf, vision_transformer
from torch import Tensor

from xvit.checkpoint import CONFIG, WEIGHTS, read_metadata
from xvit.checkpoint.hub import find_checkpoint
from xvit.checkpoint.weights import check_finite, check_num_layers, read_tensor_file
from xvit.config import ClassNames, InitConfig, ModelConfig, as_task_dict
from xvit.models.load_report import LoadReport, group_names
from xvit.models.temporal import resize_positions
from xvit.models.xvit import XViT
from xvit.utils.checkpoint_path import explain_hub_error, resolve_bundled
from xvit.utils.errors import XViTError, one_line

_logger = logging.getLogger("xvit")
_REQUEST_SECONDS = 10
WITHOUT_HUB = (
    "set checkpoint_path to it (--init.checkpoint_path FILE), or start from random weights (--init.pretrained false)"
)
# No warning if these stay random: a classifier, and the blocks, for which `_check_blocks` raises an error.
_NO_WARNING = ("backbone.head", "backbone.attn_pool", "backbone.blocks")


def load_initial_weights(model: XViT, init: InitConfig, class_names: ClassNames | None = None) -> LoadReport:
    """Load the weights that `init` names into a new XViT, and log the report, which `model.load_report` keeps.

    Args:
        model: its tensors are overwritten in place; those that the source does not have stay as they are.
        init: with `pretrained` or `checkpoint_path`.
        class_names: of the new model. The last layer of a task stays new unless a trained XViT has the same names in
            the same order. If None, their number decides.

    Raises:
        XViTError: no such source, a damaged or hostile file, one that lacks a tensor of the backbone's blocks or has
            it in a shape that cannot be resized, an XViT of another backbone.
    """
    if init.pretrained and model.config.advanced.spatial_position == "sincos":
        raise XViTError("spatial_position='sincos' with pretrained=True: pretrained weights have positions already")
    rest: dict[str, Tensor] = {}
    if init.checkpoint_path and (directory := resolve_bundled(init.checkpoint_path)).is_dir():
        source, state = init.checkpoint_path, _read_xvit(directory, model, class_names)
        image = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    elif init.checkpoint_path:
        source, image = init.checkpoint_path, _read_file(init.checkpoint_path)
    else:
        source, image = _download_hub(model.config.backbone)
    return load_tensors(model, image, rest, source=source)


def load_tensors(model: XViT, image: Mapping[str, Tensor], rest: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Load tensors into a new XViT, resizing positions and patches where needed, and log the report.

    Args:
        model: its tensors are overwritten in place.
        image: of an image model, in any naming that timm knows.
        rest: the tensors of an XViT that are not its backbone's, under their names there.
        source: where they come from, for messages.

    Raises:
        XViTError: a tensor of the backbone's blocks is missing or of a shape that cannot be resized.
    """
    fitted = {f"backbone.{key}": tensor for key, tensor in _fit_image(model, image, source).items()} | dict(rest)
    expected = model.state_dict()
    for key, tensor in rest.items():
        if key.endswith("position.weight") and key in expected and tensor.ndim == 3:
            fitted[key] = resize_positions(tensor, expected[key].shape[1])
    usable = {key: t for key, t in fitted.items() if key in expected and t.shape == expected[key].shape}
    new = tuple(key for key in expected if key not in usable)
    _check_blocks(source, new, fitted, expected)
    if not rest:  # a file of an image model
        _check_unused(source, [key for key in fitted if key not in expected], len(model.backbone.blocks))
    for key, tensor in usable.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise XViTError(f"{source}: {key} is {tensor.dtype}, {tensor.layout}: expected a dense float tensor")
    if random := [key for key in new if key.startswith("backbone.") and not key.startswith(_NO_WARNING)]:
        _logger.warning("%s: parts of the image model stay randomly initialised: %s", source, group_names(random))
    check_finite(usable, source)
    with torch.no_grad():
        for key, tensor in usable.items():
            expected[key].copy_(tensor)
    given = {f"backbone.{key}": tensor for key, tensor in image.items()} | dict(rest)
    resized = {
        key: (tuple(given[key].shape), tuple(tensor.shape))
        for key, tensor in usable.items()
        if key in given and given[key].shape != tensor.shape
    }
    model.load_report = LoadReport(
        source=source,
        loaded=tuple(key for key in usable if key not in resized),
        resized=resized,
        new=new,
        dropped=tuple(key for key in fitted if key not in usable),
    )
    _logger.info("%s", model.load_report)
    return model.load_report


def _fit_image(model: XViT, image: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under timm's names, positions (bicubic) and patches resized to the backbone by timm's function."""
    backbone, name = model.backbone, model.config.backbone
    # timm builds these families with the same options: their positions were trained to be resized bilinearly, or their
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
            if stem.shape[1] != model.in_chans:
                stem = adapt_input_conv(model.in_chans, stem, base_chans=stem.shape[1])
            tubelet = model.config.tubelet_size  # each of its frames gets an equal part: a still clip has equal tokens
            image = {**image, "patch_embed.proj.weight": stem.repeat(1, tubelet, 1, 1) / tubelet}
        fitted = family.checkpoint_filter_fn(dict(image), backbone, **options)
        return {key: tensor for key, tensor in fitted.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # timm's functions raise many kinds on the names and shapes of arbitrary files
        raise XViTError(f"{source}: does not fit the backbone {name}: {one_line(error, name=True)}") from None


def _check_blocks(source: str, new: Iterable[str], found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    # .temporal: layers that divided attention adds to the image model
    required = [
        key for key in new if key.startswith(("backbone.blocks.", "backbone.patch_embed.")) and ".temporal" not in key
    ]
    missing = [key for key in required if key not in found]
    if missing:
        raise XViTError(f"{source}: not weights of this backbone: {len(missing)} tensors missing, first {missing[0]}")
    if required:
        key = required[0]
        shapes = f"{tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        raise XViTError(
            f"{source}: not weights of this backbone: {len(required)} of a wrong shape, first {key} {shapes}"
        )


def _check_unused(source: str, unused: Iterable[str], depth: int) -> None:
    """An image model whose blocks compute more than those of the backbone is another one; it may have more blocks."""
    known = tuple(f"backbone.blocks.{number}." for number in range(depth))
    if extra := [key for key in unused if key.startswith(known)]:
        raise XViTError(
            f"{source}: not weights of this backbone, whose blocks lack {len(extra)} of the tensors, first {extra[0]}: "
            "name the image model of timm that they belong to"
        )


def _read_file(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise XViTError(f"checkpoint_path={path!r}: no such file or directory")
    try:
        state = dict(load_state_dict(path))  # timm's, which executes nothing in the file
    except (SafetensorError, OSError, EOFError, ValueError, TypeError) as error:
        raise XViTError(f"{path}: damaged, or not a checkpoint: {one_line(error)}") from None
    except Exception as error:  # pickle's own errors, whatever a hostile file holds
        reason = one_line(error, name=True)
        raise XViTError(f"{path}: holds more than tensors, so it was not loaded ({reason})") from None
    directory = Path(path).parent
    if (directory / CONFIG).is_file() and any(name.startswith("backbone.") for name in state):
        raise XViTError(f"{path}: the weights of a trained XViT: give its checkpoint directory, {directory}")
    return state


def _download_hub(name: str) -> tuple[str, dict[str, Tensor]]:
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        tags = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        hint = f"; with weights: {', '.join(tags[:5])}" if tags else ""
        raise XViTError(f"pretrained=True: the Hub has no image weights of backbone {name}{hint}")
    source, file = str(known.hf_hub_id), str(known.hf_hub_filename or "model.safetensors")
    options: dict[str, Any] = {"filename": known.hf_hub_filename} if known.hf_hub_filename else {}
    try:
        with _offline_unless_reachable():
            return f"{source} (Hugging Face Hub)", load_state_dict_from_hf(source, weights_only=True, **options)
    except Exception as error:  # the network, the Hub and its cache raise many kinds
        raise XViTError(
            f"pretrained=True: cannot get {file} of {source} from the Hugging Face Hub or its local cache: "
            f"{explain_hub_error(error)}. Download the file elsewhere, and {WITHOUT_HUB}"
        ) from None


@contextmanager
def _offline_unless_reachable() -> Iterator[None]:
    """Let huggingface_hub use its local cache only, if one request fails: it tries again for a minute otherwise."""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_REQUEST_SECONDS)
    except Exception:  # its two HTTP libraries raise many kinds
        offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = offline
    else:
        yield


def explain_misfit(model: XViT, trained: ModelConfig) -> str:
    """Why the weights of a trained XViT cannot be those of the blocks of another model; empty if they can."""
    if trained.backbone.split(".")[0] != model.config.backbone.split(".")[0]:
        return f"its backbone is {trained.backbone}, expected {model.config.backbone}"
    with torch.device("meta"):
        other = XViT(trained)
    theirs, ours = ([attention.num_heads for attention in m.attention_layers] for m in (other, model))
    if theirs != ours:  # the tensors have the same shapes for other numbers of heads
        return f"it has {theirs[:1]} heads in {len(theirs)} layers, expected {ours[:1]} in {len(ours)}"
    shapes = other.state_dict()
    for key, tensor in model.state_dict().items():
        if key.startswith("backbone.blocks.") and ".temporal" not in key:
            if key not in shapes:
                return f"it lacks {key}"
            if shapes[key].shape != tensor.shape:
                return f"its {key} has the shape {tuple(shapes[key].shape)}, expected {tuple(tensor.shape)}"
    return ""


def _read_xvit(path: Path, model: XViT, class_names: ClassNames | None) -> dict[str, Tensor]:
    directory, config = find_checkpoint(path), model.config
    metadata = read_metadata(directory)
    other = metadata.model
    check_num_layers(directory, other)
    if reason := explain_misfit(model, other):
        raise XViTError(f"{path}: {reason}")
    state = read_tensor_file(directory / WEIGHTS)
    if class_names is not None:
        theirs = as_task_dict(metadata.class_names)
        known = {task for task, names in as_task_dict(class_names).items() if theirs.get(task) == names}
        state = {
            key: tensor
            for key, tensor in state.items()
            if not key.startswith("classifier.fc.") or key.split(".")[2] in known
        }
    if other.tubelet_size > config.tubelet_size:  # patches of one frame: sums over the tubelet, as a still clip has it
        stem = state["backbone.patch_embed.proj.weight"]
        state["backbone.patch_embed.proj.weight"] = stem.unflatten(1, (other.tubelet_size, -1)).sum(dim=1)
    return state
