"""Making the program: torch.export, from it ONNX, from that OpenVINO, and integers by NNCF."""

import io
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from xvit.config import SINGLE_TASK, ClipSpec, as_task_dict
from xvit.data.transforms import normalize
from xvit.export.runtime import PROGRAMS, Manifest, export_package
from xvit.models.pretrained import load_tensors
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

Tell = Callable[[str, int, int], None]
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class WholeClips(nn.Module):
    """A model of clips (B, T, C, H, W) in float32, whatever it computes in: a list of its tasks' logits."""

    def __init__(self, model: XViT, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return _answers(self.model(pixel_values.to(self.dtype)))


class StreamingStep(nn.Module):
    """A frame of a stream (B, 1, C, H, W) and what is remembered of those before: logits, and what is to remember."""

    def __init__(self, model: XViT, dtype: torch.dtype) -> None:
        super().__init__()
        self.names = list(state_of(model))
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, pixel_values: Tensor, state: list[Tensor]) -> list[Tensor]:
        stream = Stream(self.model)
        stream.load_tensors({name: x.to(self.dtype) for name, x in zip(self.names, state, strict=True)})
        logits = stream.push(pixel_values.to(self.dtype)).logits  # (B, 1, classes)
        kept = stream.tensors()
        # not x[:, 0]: in integers OpenVINO 2026.4 makes (1, B, classes) of that
        return [*(x.flatten(0, 1) for x in _answers(logits)), *(kept[name].float() for name in self.names)]


def _answers(logits: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [x.float() for x in (logits.values() if isinstance(logits, dict) else (logits,))]


def state_of(model: XViT) -> dict[str, list[int]]:
    """Name and shape, without B, of what a stream of the model remembers once its window is full.

    Before the first frame all of it is zero: what frames outside the clip give.

    Raises:
        XViTError: a model that cannot be streamed by a step of fixed shapes.
    """
    stream = Stream(model)  # which says why, if it cannot
    if stream.latency_frames:
        raise XViTError("direction='centered': an exported step answers its own frame; take direction='causal'")
    if model.config.advanced.temporal_padding == "replicate":
        raise XViTError("edges='replicate': an exported step begins with zeros; take edges='zero'")
    if model.config.summary_tokens:
        raise XViTError("summary_tokens: their number grows with the first frames, an exported step's shapes cannot")
    blank = torch.zeros(
        1, model.config.num_frames, model.in_chans, model.clip_spec.image_size, model.clip_spec.image_size
    )
    stream.push(blank.to(next(model.parameters()).device))
    return {name: list(tensor.shape[1:]) for name, tensor in stream.tensors().items()}


def write_program(
    model: XViT, folder: Path, manifest: Manifest, *, calibration: list[Tensor], on_progress: Tell
) -> bool:
    """Write the program of a model into a folder, with what export.json says of it.

    Args:
        model: whose clip has the picture's size.
        folder: of config.json and export.json, which the program carries too.
        manifest: what to write.
        calibration: clips (1, T, C, H, W) for int8, uint8.
        on_progress: called with (what, done, in all).

    Returns:
        Whether the program takes clips of any number of frames.

    Raises:
        XViTError: a package of the extra `export` is missing.
    """
    path = folder / PROGRAMS[manifest.format]
    wrapper = StreamingStep if manifest.state else WholeClips
    # OpenVINO keeps its own kinds of numbers beside a program in float32.
    dtype = torch.float32 if manifest.format == "openvino" else _DTYPES.get(manifest.precision, torch.float32)
    module = wrapper(fixed_size(model), dtype).eval()
    inputs = _inputs(module, model, manifest)
    with _quiet():
        program = _exported(module, inputs, any_frames=takes_any_frames(model) and not manifest.state)
        if manifest.format == "torch":
            torch.export.save(program, path)
            return _any_frames(program)
        integers = None
        if "int8" in manifest.precision:
            seen = Seen(module, list(manifest.state.values()), calibration, model.clip_spec)
            integers = partial(_integers, manifest=manifest, seen=seen, tell=on_progress)
        onnx = _to_onnx(program, inputs, model, manifest)
        if manifest.format == "onnx":
            _write_onnx(onnx, path, integers)
        else:
            _write_openvino(onnx, path, integers, _about(model), halves=manifest.precision in ("fp16", "bf16"))
        return _any_frames(program)


def takes_any_frames(model: XViT) -> bool:
    """Whether a program of the model may be asked for any number of frames: no position is interpolated, no segment or
    tubelet filled.
    """
    config = model.config
    return config.temporal_position == "none" and not config.advanced.segment_frames and config.tubelet_size == 1


def _any_frames(program: ExportedProgram) -> bool:
    """Whether the exporter left the number of frames open: a loop over frames in the model makes it a constant."""
    clips = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == "pixel_values")
    return not is_concrete_int(clips.meta["val"].shape[1])


def fixed_size(model: XViT) -> XViT:
    """A copy of the model for pictures of its clip's size alone, its positions resized once and for all."""
    size = model.clip_spec.image_size
    kwargs = {**model.config.backbone_kwargs, "dynamic_img_size": False, "img_size": size}
    fixed = XViT(replace(model.config, backbone_kwargs=kwargs))
    if tuple(model.backbone.patch_embed.img_size) == (size, size):
        fixed.load_state_dict(model.state_dict())
    else:
        state = model.state_dict()
        image = {key.removeprefix("backbone."): x for key, x in state.items() if key.startswith("backbone.")}
        rest = {key: x for key, x in state.items() if not key.startswith("backbone.")}
        load_tensors(fixed, image, rest, source="the model")
    fixed.clip_spec = model.clip_spec
    return fixed.cpu().eval()


def _inputs(module: nn.Module, model: XViT, manifest: Manifest) -> tuple[Any, ...]:
    """An example of what the program takes, of 2 clips: sizes of 1 would be taken for constants."""
    size = model.clip_spec.image_size
    if isinstance(module, StreamingStep):
        state = [torch.zeros(2, *shape) for shape in manifest.state.values()]
        return torch.zeros(2, 1, model.in_chans, size, size), state
    return (torch.zeros(2, model.config.num_frames, model.in_chans, size, size),)


@torch.no_grad()
def _exported(module: nn.Module, inputs: tuple[Any, ...], *, any_frames: bool) -> ExportedProgram:
    batch = {0: Dim.AUTO}
    frames = {1: Dim.AUTO} if any_frames else {}
    shapes = (batch | frames, *([batch] * len(state) for state in inputs[1:]))
    return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


def _to_onnx(program: ExportedProgram, inputs: tuple[Any, ...], model: XViT, manifest: Manifest) -> Any:
    state = list(manifest.state)
    tasks = ["logits" if task == SINGLE_TASK else f"logits.{task}" for task in model.config.tasks]
    made = torch.onnx.export(
        program,
        inputs,
        dynamo=True,
        verbose=False,
        input_names=["pixel_values", *state],
        output_names=[*tasks, *(f"next.{name}" for name in state)],
    )
    assert made is not None
    made.model.metadata_props.update(_about(model))
    return made.model_proto


def _about(model: XViT) -> dict[str, str]:
    """What a program says of itself, for who has the file alone."""
    clip = model.clip_spec
    return {
        "xvit.labels": json.dumps(
            {"" if task == SINGLE_TASK else task: names for task, names in as_task_dict(model.class_names).items()}
        ),
        "xvit.frames": str(clip.num_frames),
        "xvit.sampling": f"{clip.sampling}, stride {clip.stride}",
        "xvit.image_size": str(clip.image_size),
        "xvit.mean": json.dumps(clip.mean),
        "xvit.std": json.dumps(clip.std),
    }


def _write_onnx(program: Any, path: Path, integers: Callable[[Any, list[str]], Any] | None) -> None:
    onnx = export_package("onnx")
    if integers is not None:
        program = integers(program, [entry.name for entry in program.graph.input])
    onnx.save_model(program, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def _write_openvino(
    onnx_model: Any,
    path: Path,
    integers: Callable[[Any, list[str]], Any] | None,
    about: Mapping[str, str],
    *,
    halves: bool,
) -> None:
    openvino = export_package("openvino")
    whole = path.with_name("whole.onnx")
    export_package("onnx").save_model(onnx_model, whole, save_as_external_data=True, location="whole.data")
    program = openvino.convert_model(whole)
    if integers is not None:
        program = integers(program, [entry.get_any_name() for entry in program.inputs])
    for name, value in about.items():
        program.set_rt_info(value, name.split("."))
    openvino.save_model(program, path, compress_to_fp16=halves)
    del program  # which reads its weights from the file
    for left in path.parent.glob("whole.*"):
        left.unlink()


class Seen:
    """The inputs that a program meets on clips, made anew at each pass, as all at once would take gigabytes: the clips,
    or each frame with what is remembered then.
    """

    def __init__(self, module: nn.Module, state: list[list[int]], clips: list[Tensor], spec: ClipSpec) -> None:
        self.module, self.state, self.clips, self.spec = module, state, clips, spec
        self.number = sum(clip.shape[1] if state else 1 for clip in clips)

    @torch.inference_mode()
    def __iter__(self) -> Iterator[list[Tensor]]:
        for pixels in self.clips:
            clip = normalize(pixels, self.spec)
            if not self.state:
                yield [clip]
                continue
            state = [torch.zeros(1, *shape) for shape in self.state]
            for frame in clip.split(1, dim=1):
                yield [frame, *state]
                state = self.module(frame, state)[-len(state) :]


def _integers(program: Any, names: list[str], *, manifest: Manifest, seen: Seen, tell: Tell) -> Any:
    """The program with integer weights, and integer activations whose ranges come from what it has seen."""
    nncf = export_package("nncf")
    if manifest.precision == "int8-weights":
        # ONNX Runtime does not run convolutions of weights compressed this way; there is one, of few weights.
        kept = nncf.IgnoredScope(types=["Conv"], validate=False) if manifest.format == "onnx" else None
        return nncf.compress_weights(program, mode=nncf.CompressWeightsMode.INT8_ASYM, ignored_scope=kept)
    taken = itertools.count()

    def take(inputs: list[Tensor]) -> dict[str, Any]:
        tell("calibrating", next(taken) % seen.number + 1, seen.number)
        return dict(zip(names, [x.numpy() for x in inputs], strict=True))

    data = nncf.Dataset(seen, take)
    return nncf.quantize(program, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=seen.number)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn, log and print of their own insides."""
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
