"""Building the programs: torch.export, from it ONNX, from that OpenVINO; NNCF quantizes to int8."""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from xvit.config import SINGLE_TASK, ClipSpec, as_task_dict
from xvit.data.transforms import normalize
from xvit.export.backends import import_package
from xvit.export.manifest import PROGRAM_FILES, ExportManifest
from xvit.export.parity import OnProgress
from xvit.export.raw_frames import RawFramesProgram, example_frames
from xvit.export.streaming import StreamingProgram
from xvit.models.pretrained import load_tensors
from xvit.models.xvit import XViT
from xvit.utils.errors import WriteError, one_line
from xvit.utils.signal_stack import keep_signal_stack

FLOAT_NODES = "float32/"
METADATA_FILE = "xvit.json"  # inside a torch.export program
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class ClipProgram(nn.Module):
    """A model with float32 inputs (B, T, C, H, W) and outputs, whatever its own dtype. Returns the logits per task."""

    def __init__(self, model: XViT, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return _logits_list(self.model(pixel_values.to(self.dtype)))


def _logits_list(logits: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [x.float() for x in as_task_dict(logits).values()]


@dataclass(frozen=True)
class CalibrationInputs:
    """The inputs of a program on clips, by name: each clip, or each frame with the state at that frame.

    They are computed anew in each pass, because all states at once would take gigabytes. For a program for raw frames,
    the views of the clips are the frames: resizing them changes nothing.
    """

    module: nn.Module
    manifest: ExportManifest
    clips: list[Tensor]
    clip_spec: ClipSpec
    on_progress: OnProgress

    def __len__(self) -> int:
        return sum(clip.shape[1] if self.manifest.state else 1 for clip in self.clips)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        names, num_done = [self.manifest.input_name, *self.manifest.state], 0
        for pixels in self.clips:
            raw = self.manifest.raw_frames
            clip = pixels.permute(0, 1, 3, 4, 2) if raw else normalize(pixels, self.clip_spec)
            state = [torch.zeros(1, *shape) for shape in self.manifest.state.values()]
            for frames in clip.split(1 if state else clip.shape[1], dim=1):
                num_done += 1
                self.on_progress("calibrating", num_done, len(self))
                yield {name: x.numpy() for name, x in zip(names, [frames, *state], strict=True)}
                if state:
                    state = self.module(frames, state)[-len(state) :]


def write_program(
    model: XViT, directory: Path, manifest: ExportManifest, *, calibration: list[Tensor], on_progress: OnProgress
) -> bool:
    """Write the program of a model.

    Args:
        model: its clip spec has the image size of the program.
        directory: where the program goes.
        manifest: format, precision and state of the program.
        calibration: clips (1, T, C, H, W) in uint8, for int8.
        on_progress: called with the stage, the steps done and their total.

    Returns:
        Whether the program accepts clips of any number of frames.

    Raises:
        XViTError: a package of the extra `export` is missing.
    """
    path = directory / PROGRAM_FILES[manifest.format]
    program_class = StreamingProgram if manifest.state else ClipProgram
    # OpenVINO programs stay in float32: save_model and the runtime convert them.
    dtype = torch.float32 if manifest.format == "openvino" else _DTYPES.get(manifest.precision, torch.float32)
    module: nn.Module = program_class(with_fixed_size(model), dtype)
    if manifest.raw_frames:
        calibrated = [model.calibration[task] for task in model.config.tasks if task in model.calibration]
        multi_label = model.config.multi_label
        module = RawFramesProgram(module, model.clip_spec, multi_label=multi_label, calibration=calibrated)
    data = CalibrationInputs(module.eval(), manifest, calibration, model.clip_spec, on_progress)
    with _silence_exporters():
        program = _torch_export(module, model, manifest)
        if manifest.format == "torch":
            content = io.BytesIO()  # not the file: torch aborts the process if the disk is full
            torch.export.save(
                program, content, extra_files={METADATA_FILE: json.dumps(_program_metadata(model, manifest))}
            )
            path.write_bytes(content.getbuffer())
        elif manifest.format == "onnx":
            _save_onnx(_quantize(_to_onnx(program, model, manifest), manifest, data), path)
        else:
            _write_openvino(program, model, path, manifest, data)
    # a loop over frames in the model makes the exporter take T for a constant
    [name, *_] = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    return not is_concrete_int(node.meta["val"].shape[1])


def with_fixed_size(model: XViT) -> XViT:
    """A copy of the model for the image size of its clip spec only, with positions already resized to it."""
    size = model.clip_spec.image_size
    kwargs = {**model.config.backbone_kwargs, "dynamic_img_size": False, "img_size": size}
    fixed = XViT(replace(model.config, backbone_kwargs=kwargs))
    if tuple(model.backbone.patch_embed.img_size) == (size, size):
        fixed.load_state_dict(model.state_dict())
    else:
        rest = {key: x for key, x in model.state_dict().items() if not key.startswith("backbone.")}
        load_tensors(fixed, model.backbone.state_dict(), rest, source="the model")
    fixed.clip_spec = model.clip_spec
    return fixed.cpu().eval()


@torch.no_grad()
def _torch_export(module: nn.Module, model: XViT, manifest: ExportManifest) -> ExportedProgram:
    """Trace the program, with dynamic B, and dynamic T if nothing in the model depends on it."""
    config, size = model.config, model.clip_spec.image_size
    # B = 2 in the example inputs: the exporter would take a size of 1 for a constant
    state = [torch.zeros(2, *shape) for shape in manifest.state.values()]
    frames = torch.zeros(2, 1 if state else config.num_frames, model.in_chans, size, size)
    # interpolated positions, padded segments and tubelets depend on T
    fixed = config.temporal_position != "none" or config.advanced.segment_frames or config.tubelet_size > 1
    inputs: tuple[Any, ...] = (frames,)
    shapes: tuple[Any, ...] = ({0: Dim.AUTO} if fixed else {0: Dim.AUTO, 1: Dim.AUTO},)
    if manifest.raw_frames:
        inputs, shapes = (example_frames(frames),), ({**shapes[0], 2: Dim.AUTO, 3: Dim.AUTO},)
    if state:
        inputs, shapes = (frames, state), ({0: Dim.AUTO}, [{0: Dim.AUTO}] * len(state))
    return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _to_onnx(program: ExportedProgram, model: XViT, manifest: ExportManifest) -> Any:
    state = list(manifest.state)
    kinds = ["scores", *(["margin"] if model.calibration else [])] if manifest.raw_frames else ["logits"]
    outputs = [kind if task == SINGLE_TASK else f"{kind}.{task}" for kind in kinds for task in model.config.tasks]
    onnx_program = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[manifest.input_name, *state],
        output_names=[*outputs, *(f"next.{name}" for name in state)],
    )
    assert onnx_program is not None
    onnx_program.model.metadata_props.update(_as_properties(_program_metadata(model, manifest)))
    proto = onnx_program.model_proto
    _name_axes(proto)
    _name_float_nodes(proto, manifest)
    return proto


def _name_float_nodes(proto: Any, manifest: ExportManifest) -> None:
    """Begin the names of the nodes that int8 leaves in float32 with `FLOAT_NODES`.

    These are the preprocessing of raw frames and, in a streaming step, all behind the image model: the few tokens of
    the temporal head cost little, but OpenVINO 2026.4 computes their attention wrongly in int8.
    """
    quantized = "'program'" if manifest.raw_frames else "'model.backbone." if manifest.state else ""
    for node in proto.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        if scopes and quantized not in scopes[0]:
            node.name = FLOAT_NODES + node.name


def _name_axes(proto: Any) -> None:
    """Name the dynamic axes of the input in all values; the exporter's names are such as s99."""
    first = proto.graph.input[0].type.tensor_type.shape.dim  # of the pixels
    axes = ("batch", "frames", "height", "width")  # raw frames; of clips, only the first two are dynamic
    names = {dim.dim_param: name for dim, name in zip(first, axes, strict=False) if dim.dim_param}
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    functions = [value for function in proto.functions for value in function.value_info]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *functions):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda match: names[match[1]], dim.dim_param)


def _program_metadata(model: XViT, manifest: ExportManifest) -> dict[str, Any]:
    """How a video becomes the program's input and what its outputs are, inside the program itself.

    It is for people who have only that file, and no xvit; docs/guides/export.md shows how to use it.
    """
    clip_spec, raw = model.clip_spec, manifest.raw_frames
    activation = "sigmoid" if model.config.multi_label else "softmax"
    values = {
        "class_names": model.class_names,
        "activation": "none" if raw else activation,
        "input": "uint8 frames of any size" if raw else "float32 pixels, resized, cropped and normalised",
        "output": f"scores ({activation})" if raw else "logits",
        "input_layout": f"batch, frames, {'height, width, channels' if raw else 'channels, height, width'}",
        "num_frames": clip_spec.num_frames,
        "sampling": clip_spec.sampling,
        "stride": clip_spec.stride,
        "frame_rate": clip_spec.frame_rate,  # null: frames are counted
        "color_order": "RGB",
        "image_size": clip_spec.image_size,
    }
    if model.calibration:  # which a program for raw frames has inside
        values["calibration"] = model.checkpoint_metadata.to_dict()["calibration"]
    if raw:  # the program itself does the rest
        return values
    return values | {
        "resize": "the short side to image_size, the long side to floor(image_size * long / short)",
        "interpolation": clip_spec.interpolation,
        "antialias": True,
        "crop": "centre, from floor((long - image_size) / 2)",
        "scale": 1 / 255,  # before mean and std
        "mean": clip_spec.mean,
        "std": clip_spec.std,
    }


def _as_properties(values: dict[str, Any]) -> dict[str, str]:
    """Metadata for formats that hold texts: texts as they are, other values as JSON."""
    return {f"xvit.{name}": v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}


def _save_onnx(onnx_model: Any, path: Path) -> None:
    location = f"{path.name}.data"
    import_package("onnx").save_model(onnx_model, path, save_as_external_data=True, location=location)


def _write_openvino(
    program: ExportedProgram, model: XViT, path: Path, manifest: ExportManifest, data: CalibrationInputs
) -> None:
    openvino = import_package("openvino")
    onnx_path = path.with_name("temporary.onnx")
    _save_onnx(_to_onnx(program, model, manifest), onnx_path)
    converted = _quantize(openvino.convert_model(onnx_path), manifest, data)
    for name, value in _as_properties(_program_metadata(model, manifest)).items():
        converted.set_rt_info(value, name.split("."))
    try:
        openvino.save_model(converted, path, compress_to_fp16=manifest.precision in ("fp16", "bf16"))
    except RuntimeError as error:  # for all kinds of errors
        raise WriteError(f"{path}: cannot be written: {one_line(error)}") from None
    del converted  # it reads its weights from the temporary file
    for temporary in path.parent.glob("temporary.*"):
        temporary.unlink()


def _quantize(program: Any, manifest: ExportManifest, data: CalibrationInputs) -> Any:
    """The program, of int8 weights and activations calibrated on the data, or of int8 weights, as the manifest says."""
    if "int8" not in manifest.precision:
        return program
    nncf = import_package("nncf")
    if manifest.precision == "int8-weights":
        # ONNX Runtime cannot run convolutions with weights compressed this way; the model has one, with few weights.
        ignored = nncf.IgnoredScope(types=["Conv"], validate=False) if manifest.format == "onnx" else None
        return nncf.compress_weights(program, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=ignored)
    dataset, transformer = nncf.Dataset(data), nncf.ModelType.TRANSFORMER
    ignored = nncf.IgnoredScope(patterns=[f"{FLOAT_NODES}.*"], validate=False)  # there may be none
    with keep_signal_stack():
        return nncf.quantize(program, dataset, model_type=transformer, subset_size=len(data), ignored_scope=ignored)


@contextmanager
def _silence_exporters() -> Iterator[None]:
    """Suppress the warnings, logs and prints of the exporters about their internals."""
    names = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir", "nncf")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
