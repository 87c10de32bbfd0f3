"""The checkpoints that the paper's authors released: their tensor names and ours, and what their shapes do not tell.

In their files `base_model` is the backbone with its temporal positions, `consensus` the temporal head and the
classifier. `KEYS` lists all of their names beside ours.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xvit.checkpoint.weights import check_finite
from xvit.config import SINGLE_TASK, ModelConfig, model_config
from xvit.models.load_report import LoadReport
from xvit.models.temporal import resize_positions
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, one_line

_PARAMETER = r"(weight|bias)"
_IN_BLOCK = rf"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.{_PARAMETER}"

# (theirs, ours, what {} matches). None: dropped on purpose.
KEYS: tuple[tuple[str, str | None, str], ...] = (
    ("base_model.cls_token", "backbone.cls_token", ""),
    ("base_model.pos_embed", "backbone.pos_embed", ""),
    ("base_model.temp_embed", "temporal_position.weight", ""),
    ("base_model.patch_embed.proj.{}", "backbone.patch_embed.proj.{}", _PARAMETER),
    ("base_model.blocks.{}", "backbone.blocks.{}", rf"(\d+\.{_IN_BLOCK})"),
    ("base_model.norm.{}", "backbone.norm.{}", _PARAMETER),
    ("base_model.pre_logits.fc.{}", "frame_projection.fc.{}", _PARAMETER),
    ("consensus.cls_token", "temporal_head.cls_token", ""),
    ("consensus.temporal_encoder.{}", "temporal_head.blocks.{}", rf"(\d+\.{_IN_BLOCK})"),
    ("consensus.mlp_head.0.{}", "temporal_head.norm.{}", _PARAMETER),
    ("consensus.mlp_head.1.{}", "classifier.hidden.0.{}", _PARAMETER),
    ("consensus.mlp_head.4.{}", f"classifier.fc.{SINGLE_TASK}.{{}}", _PARAMETER),
    ("new_fc.{}", None, _PARAMETER),
)


def our_name(theirs: str) -> str | None:
    """Our name of one of their tensors; None if the tensor is dropped on purpose.

    Raises:
        XViTError: they have no such tensor.
    """
    for their_form, our_form, pattern in KEYS:
        match = re.fullmatch(re.escape(their_form).replace(r"\{\}", pattern), theirs)
        if match:
            return our_form if our_form is None else our_form.format(*match.groups()[:1])
    raise XViTError(f'tensor "{theirs}" is not part of the authors\' models')


def their_name(ours: str) -> str:
    """Their name of one of our tensors.

    Raises:
        XViTError: they have no such tensor.
    """
    for their_form, our_form, pattern in KEYS:
        match = our_form and re.fullmatch(re.escape(our_form).replace(r"\{\}", pattern), ours)
        if match:
            return their_form.format(*match.groups()[:1])
    raise XViTError(f'the authors\' models have no tensor "{ours}"')


def load_official(
    path: str | Path,
    *,
    num_frames: int,
    segment_frames: int | None = None,
    num_heads: int | None = None,
    mix_ratio: float = 0.5,
) -> XViT:
    """Build the model of one of the authors' checkpoints. Its logits equal theirs.

    Depth, widths, number of classes and the like follow from the shapes; the arguments are what shapes do not tell.

    Args:
        path: one of their .pyth, .pth or .pt files, or its tensors as .safetensors.
        num_frames: T, frames per clip.
        segment_frames: mix within segments of this many frames: 8 for the released Kinetics models, whose clips have
            16. Their temporal embedding has 8 slots and is then used once per segment.
        num_heads: attention heads; one for every 64 channels by default.
        mix_ratio: rho, fraction of channels that come from neighbouring frames: 0.25 for the released Kinetics models,
            0.5 for Something-Something.

    Returns:
        The model, in eval mode; its `load_report` says what became of their tensors.

    Raises:
        XViTError: not such a file; tensors that are missing, unknown or of inconsistent shapes.
    """
    state = read_state(path)
    tensors, unknown = _rename_tensors(state)
    try:
        config = _infer_config(
            tensors, num_frames=num_frames, segment_frames=segment_frames or 0, num_heads=num_heads, mix_ratio=mix_ratio
        )
        model = XViT(config)
    except KeyError as error:
        raise XViTError(f'{path}: tensor "{their_name(error.args[0])}" is missing') from None
    except XViTError as error:
        raise XViTError(f"{path}: {error}") from None
    except Exception as error:  # torch and timm raise many kinds on arbitrary shapes
        raise XViTError(f"{path}: the shapes of its tensors are not those of the authors' models ({error})") from None
    resized = _resize_temporal_embedding(tensors, num_frames, segment_frames)
    _check_tensors(path, model, tensors, unknown)
    model.load_state_dict(tensors)
    model.load_report = LoadReport(
        source=str(path),
        loaded=tuple(name for name in tensors if name not in resized),
        resized=resized,
        dropped=tuple(name for name in state if our_name(name) is None),
    )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    model.provenance = {"source": {"file": Path(path).name, "sha256": digest}}
    return model.eval()


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read `model_state` from one of the authors' checkpoint files, without executing anything in it.

    Raises:
        XViTError: no such file, not readable, no `model_state` in it.
    """
    path = Path(path)
    if not path.is_file():
        raise XViTError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        loaded: object = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise XViTError(f"{path}: damaged, or not a checkpoint: {one_line(error)}") from None
    except Exception:  # pickle's own errors, whatever a hostile file holds
        raise XViTError(
            f"{path}: not a PyTorch checkpoint, or it holds more than tensors and plain values, which are not loaded"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model_state"), Mapping):
        loaded = loaded["model_state"]
    elif isinstance(loaded, Mapping):
        prefix = "model_state."
        loaded = {name.removeprefix(prefix): value for name, value in loaded.items() if str(name).startswith(prefix)}
    state = {str(name): value for name, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise XViTError(f"{path}: expected a mapping model_state of tensors, as in the authors' released files")
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise XViTError(f'{path}: tensor "{name}" is {tensor.dtype}, {tensor.layout}: expected dense floats')
    check_finite(state, path)
    return {name: tensor.float() for name, tensor in state.items()}


def _rename_tensors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors under our names, and the names that are not theirs."""
    tensors: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        try:
            ours = our_name(name)
        except XViTError:
            unknown.append(name)
            continue
        if ours is not None:
            tensors[ours] = tensor
    return tensors, unknown


def _infer_config(
    tensors: Mapping[str, Tensor], *, num_frames: int, segment_frames: int, num_heads: int | None, mix_ratio: float
) -> ModelConfig:
    dim, _, patch, _ = tensors["backbone.patch_embed.proj.weight"].shape
    if num_heads is not None and (num_heads < 1 or dim % num_heads):
        raise XViTError(f"num_heads={num_heads}: {dim} channels cannot be divided evenly among the heads")
    if segment_frames and num_frames % segment_frames:
        raise XViTError(f"segment_frames={segment_frames}: {num_frames} frames are not a multiple of it")
    if num_heads is None and dim % 64:
        raise XViTError(f"{dim} channels are not a multiple of 64: give the number of heads (num_heads)")
    grid = round((tensors["backbone.pos_embed"].shape[1] - 1) ** 0.5)
    return model_config(
        backbone="vit_base_patch16_224",
        num_classes=tensors[f"classifier.fc.{SINGLE_TASK}.weight"].shape[0],
        num_frames=num_frames,
        window=1,
        mix_ratio=mix_ratio,
        grouping="flat",
        temporal_padding="zero",
        segment_frames=segment_frames,
        temporal_position="input" if "temporal_position.weight" in tensors else "none",
        temporal_head="attention",
        temporal_layers=_count_blocks(tensors, "temporal_head.blocks"),
        frame_projection="frame_projection.fc.weight" in tensors,
        classifier_hidden=len(tensors["classifier.hidden.0.weight"]),
        dropout=0.5,
        backbone_kwargs={
            "img_size": grid * patch,
            "patch_size": patch,
            "embed_dim": dim,
            "depth": _count_blocks(tensors, "backbone.blocks"),
            "num_heads": num_heads or dim // 64,
            "mlp_ratio": len(tensors["backbone.blocks.0.mlp.fc1.weight"]) / dim,
            "qkv_bias": "backbone.blocks.0.attn.qkv.bias" in tensors,
        },
    )


def _count_blocks(tensors: Mapping[str, Tensor], blocks: str) -> int:
    numbers = {int(name.removeprefix(f"{blocks}.").split(".")[0]) for name in tensors if name.startswith(f"{blocks}.")}
    for number in range(len(numbers) or 1):
        if number not in numbers:
            raise KeyError(f"{blocks}.{number}.norm1.weight")
    return len(numbers)


def _resize_temporal_embedding(
    tensors: dict[str, Tensor], num_frames: int, segment_frames: int | None
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Fit the temporal embedding to the frames, and return its shapes before and after if they differ.

    An embedding of one segment is repeated for each segment; any other is interpolated.
    """
    name = "temporal_position.weight"
    slots = tensors.get(name)
    if slots is None or slots.ndim != 4 or slots.shape[2] != 1 or not slots.shape[1]:
        return {}
    slots = slots.squeeze(2)  # (1, slots, 1, D) -> (1, slots, D)
    if segment_frames and slots.shape[1] == segment_frames:
        tensors[name] = slots.repeat(1, num_frames // segment_frames, 1)
    else:
        tensors[name] = resize_positions(slots, num_frames)
    return {} if tensors[name].shape == slots.shape else {name: (tuple(slots.shape), tuple(tensors[name].shape))}


def _check_tensors(path: str | Path, model: XViT, tensors: Mapping[str, Tensor], unknown: list[str]) -> None:
    expected = model.state_dict()
    missing = [their_name(name) for name in expected if name not in tensors]
    unused = unknown + [their_name(name) for name in tensors if name not in expected]
    wrong = [
        f"{their_name(name)} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("not used", unused), ("of a wrong shape", wrong))
        if names
    ]
    if problems:
        raise XViTError(f"{path}: tensors do not fit: {'; '.join(problems)}")
