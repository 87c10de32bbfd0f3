"""Exported models: what `xvit export` writes, run by ONNX Runtime, OpenVINO or torch.export like the model itself.

A directory of config.json (as a checkpoint's: the model, its clip, its labels), export.json (how it was exported, and
what it was measured to be worth) and the program:

    onnx       model.onnx                  data, not code: opening one from anywhere runs nothing that is in it
    openvino   model.xml, model.bin        the same
    torch      model.pt2                   a program: opened only when the user says that it may be trusted
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from xvit.checkpoint import format as checkpoint
from xvit.config import SINGLE_TASK, ClassNames, ClipSpec, ModelConfig
from xvit.models.xvit import XViT
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, check_choice, did_you_mean, import_optional

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights"]
PROGRAMS = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-weights")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What export.json says.

    Args:
        format: what runs the program.
        precision: of its weights and arithmetic; int8-weights computes in float32.
        state: of a streaming step: name and shape, without B, of each tensor that it remembers; empty for a model of
            whole clips.
        dynamic_frames: whether clips of any number of frames may be given.
        source: hash of the settings and weights that were exported, `XViT.fingerprint`.
        parity: how far its answers are from the model's, as `xvit.export.parity` measured.
        versions: of what made it.

    Raises:
        XViTError: an unknown format or precision.
    """

    format: Format
    precision: Precision
    state: dict[str, list[int]] = field(default_factory=dict)
    dynamic_frames: bool = False
    source: str = ""
    parity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("format", self.format, PROGRAMS)
        check_choice("precision", self.precision, PRECISIONS)


class ExportedModel:
    """An exported model, called like an `XViT`: clips in, logits out. `Predictor` and evaluation take either.

    A streaming step is called with whole clips too: it goes through their frames, and its last answer is the clip's.

    Args:
        directory: as `xvit export` wrote it.
        device: where it runs; OpenVINO runs on the CPU.
        trust: open a `torch` program, which can hold any code. ONNX and OpenVINO files cannot.

    Attributes:
        config, clip, labels: as of the model that was exported.
        manifest: how it was exported.

    Raises:
        XViTError: not such a directory, a damaged file, a runtime that is not installed, a torch program without
            `trust`, a device that the runtime does not have.
    """

    def __init__(self, directory: str | Path, *, device: str | torch.device = "cpu", trust_code: bool = False) -> None:
        directory = Path(directory)
        description = checkpoint.read_metadata(directory)
        self.config: ModelConfig = description.model
        self.clip_spec: ClipSpec = description.clip_spec
        self.class_names: ClassNames = description.class_names
        self.manifest = read_manifest(directory)
        self.device = resolve_device(device)
        self.precision = self.manifest.precision
        self.channels = cast(int, self.config.backbone_kwargs.get("in_chans", 3))
        self._program = directory / PROGRAMS[self.manifest.format]
        if not self._program.is_file():
            raise XViTError(f"{self._program}: missing: the directory was not written whole")
        if self.manifest.format == "torch" and not trust_code:
            raise XViTError(
                f"{self._program}: a torch.export program can hold any code: if you made it, or trust who did, say so "
                "(--trust-code, or trust_code=True); ONNX and OpenVINO exports need no trust"
            )
        if not takes_device(self.manifest.format, self.device):
            raise XViTError(f"device={str(device)!r}: the {self.manifest.format} runtime here has none: --device cpu")
        self._run = {"onnx": _onnx, "openvino": _openvino, "torch": _torch}[self.manifest.format](
            self._program, self.manifest, self.device
        )

    probabilities = cast("Callable[[Any, Tensor], Tensor]", XViT.probabilities)

    def __call__(self, pixel_values: Tensor) -> Tensor | dict[str, Tensor]:
        """Classify clips (B, T, C, H, W), normalised as `clip` says: logits (B, classes), a dict for several tasks.

        Raises:
            XViTError: a shape that the program was not made for, a program that does not go with its config.json.
        """
        T, fewest = self.config.num_frames, self.config.window + 2  # programs know no clip shorter than the window
        shape = tuple(pixel_values.shape)
        frames = shape[1] if len(shape) == 5 and self.manifest.dynamic_frames and shape[1] >= fewest else T
        expected = (frames, self.channels, self.clip_spec.image_size, self.clip_spec.image_size)
        if shape[1:] != expected:
            known = f"at least {fewest}" if self.manifest.dynamic_frames else str(T)
            sizes = ", ".join(map(str, expected[1:]))
            raise XViTError(f"pixel_values of shape {shape}: expected (B, T, {sizes}) with T = {known}")
        if self.manifest.state:
            state = self.first_state(len(pixel_values))
            for frame in pixel_values.split(1, dim=1):
                logits, state = self.step(frame, state)
            return logits
        return self._named(self._outputs([pixel_values]))

    def first_state(self, batch_size: int = 1) -> list[Tensor]:
        """What a streaming step remembers before the first frame: tensors (B, ...), in the order of the manifest."""
        return [torch.zeros(batch_size, *shape, device=self.device) for shape in self.manifest.state.values()]

    def step(self, frame: Tensor, state: list[Tensor]) -> tuple[Tensor | dict[str, Tensor], list[Tensor]]:
        """One frame of a stream.

        Args:
            frame: (B, 1, C, H, W), normalised.
            state: of the frame before, or `first_state`.

        Returns:
            Logits (B, classes) of the last T frames, right from the T-th frame of the stream on; the new state.
        """
        outputs = self._outputs([frame, *state])
        answers = len(outputs) - len(state)
        return self._named(outputs[:answers]), outputs[answers:]

    def _outputs(self, inputs: list[Tensor]) -> list[Tensor]:
        try:
            outputs = self._run(inputs)
        except Exception as error:  # of the runtimes, on a program that is not what config.json and export.json say
            raise _unreadable(self._program, error) from None
        if len(outputs) != len(self.config.tasks) + len(self.manifest.state):
            raise XViTError(
                f"{self._program}: {len(outputs)} outputs, not those of config.json and export.json beside it"
            )
        return outputs

    def _named(self, outputs: list[Tensor]) -> Tensor | dict[str, Tensor]:
        tasks = list(self.config.tasks)
        return outputs[0] if tasks == [SINGLE_TASK] else dict(zip(map(str, tasks), outputs, strict=True))

    def model_hash(self) -> str:
        """Hash of the program's files, 16 letters."""
        digest = hashlib.sha256()
        for path in sorted(self._program.parent.glob("model.*")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]


def is_exported(directory: str | Path) -> bool:
    """Whether that is the directory of an exported model."""
    return (Path(directory) / checkpoint.EXPORTED).is_file()


def read_manifest(directory: Path) -> Manifest:
    """export.json of a directory.

    Raises:
        XViTError: it cannot be read, an unknown key or a wrong value.
    """
    path = directory / checkpoint.EXPORTED
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise XViTError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise XViTError(f"{path}: expected a mapping, got {values!r:.80}")
    known = Manifest.__dataclass_fields__
    for key in values:
        if key not in known:
            raise XViTError(f'{path}: unknown key "{key}".{did_you_mean(key, known)} Known: {", ".join(known)}')
    state = values.get("state", {})
    shapes = state.values() if isinstance(state, dict) else [None]
    if not all(
        isinstance(shape, list) and all(type(n) is int and 0 < n < 10**6 for n in shape) and math.prod(shape) < 10**9
        for shape in shapes
    ):
        raise XViTError(f'{path}: key "state": expected a mapping of names to shapes, got {state!r:.80}')
    try:
        return Manifest(**values)
    except (XViTError, TypeError) as error:
        raise XViTError(f"{path}: {error}") from None


def export_package(name: str) -> Any:
    """A package of the extra `export`.

    OpenVINO and NNCF would tell a server of each use, through a package without which they do without it: what users
    do with their videos stays with them.

    Raises:
        XViTError: it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # which importing takes for missing
    return import_optional(name, extra="export")


def takes_device(format: Format, device: torch.device) -> bool:
    """Whether the runtime of a format can use that device here."""
    if format == "onnx" and device.type == "cuda":
        return "CUDAExecutionProvider" in export_package("onnxruntime").get_available_providers()
    return format == "torch" or device.type == "cpu"


Run = Callable[[list[Tensor]], list[Tensor]]


def _onnx(program: Path, manifest: Manifest, device: torch.device) -> Run:
    runtime = export_package("onnxruntime")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: what it optimised, and what not, is not for users
    try:
        session = runtime.InferenceSession(program, options, providers=providers)
        names = [entry.name for entry in session.get_inputs()]
    except Exception as error:  # of the runtime, on a damaged or hostile file: many kinds
        raise _unreadable(program, error) from None

    def run(inputs: list[Tensor]) -> list[Tensor]:
        arrays = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array).to(device) for array in session.run(None, arrays)]

    return run


def _openvino(program: Path, manifest: Manifest, device: torch.device) -> Run:
    openvino = export_package("openvino")
    hint = {"bf16": "bf16"}.get(manifest.precision, "f32")  # of what is not int8
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(program, "CPU", settings)
    except Exception as error:
        raise _unreadable(program, error) from None

    def run(inputs: list[Tensor]) -> list[Tensor]:
        outputs = compiled([np.ascontiguousarray(x.numpy()) for x in inputs])
        return [torch.from_numpy(array.copy()) for array in outputs.values()]

    return run


def _torch(program: Path, manifest: Manifest, device: torch.device) -> Run:
    try:
        exported = torch.export.load(program)
        # moves constants of the graph too, which module.to leaves where they are
        module = (exported if device.type == "cpu" else move_to_device_pass(exported, device)).module()
    except Exception as error:
        raise _unreadable(program, error) from None

    def run(inputs: list[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return list(module(inputs[0].to(device), inputs[1:]) if manifest.state else module(inputs[0].to(device)))

    return run


def _unreadable(program: Path, error: Exception) -> XViTError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return XViTError(f"{program}: damaged, or not for this version of its runtime ({reason})")
