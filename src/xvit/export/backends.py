"""The runtimes of exported models: loading a program, and the arrays that it takes.

ONNX Runtime and OpenVINO need no torch: this module imports it only for programs of torch.export.
"""

import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xvit.export.manifest import ExportManifest, Format
from xvit.export.stepping import FunctionStepper, OnnxStepper, OpenVinoStepper, Shapes, Stepper
from xvit.utils import distributed, threads
from xvit.utils.errors import XViTError, import_optional
from xvit.utils.signal_stack import keep_signal_stack

if TYPE_CHECKING:
    import torch

Array = Any  # a NumPy array or a torch tensor
Shape = tuple[int | None, ...]  # None: any size, such as B
_MAX_COMPILED = 4  # programs of OpenVINO that are kept: one for each shape of the inputs


def import_package(name: str) -> Any:
    """Import a package of the extra `export`, without telemetry: xvit never sends data about its users.

    OpenVINO and NNCF report their use to a server through a package that they do not need. ONNX Runtime's telemetry is
    turned off where xvit is imported.

    Raises:
        XViTError: it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # an import then fails as if it were not installed
    return import_optional(name, extra="export")


def choose_device(format: Format, device: "str | torch.device | None") -> str:
    """The name of a device that the runtime of the format can use; raises `XViTError` if it cannot use this one."""
    if format == "torch":
        from xvit.utils.devices import resolve_device

        return str(resolve_device(device))
    cuda = format == "onnx" and "CUDAExecutionProvider" in import_package("onnxruntime").get_available_providers()
    if device is None:
        return f"cuda:{distributed.local_rank()}" if cuda else "cpu"
    name = device_name(device)
    if name != "cpu" and not (cuda and re.fullmatch(r"cuda:\d+", name)):
        raise XViTError(f"device={str(device)!r}: the installed {format} runtime cannot use it; use --device cpu")
    return name


def device_name(device: "str | torch.device") -> str:
    """The full name of a device, such as cuda:0 for cuda."""
    return {"cuda": "cuda:0", "cpu:0": "cpu"}.get(str(device), str(device))


def is_tensor(values: object) -> bool:
    return "torch" in sys.modules and isinstance(values, sys.modules["torch"].Tensor)


def as_array(values: Array) -> np.ndarray:
    """A contiguous array of the values, without a copy if they are one already or lie in the memory of the CPU."""
    return np.ascontiguousarray(values.detach().cpu().numpy() if is_tensor(values) else values)


def as_tensor(values: Array, device: "str | torch.device") -> "torch.Tensor":
    """The values as a tensor on a device, without a copy if they are there."""
    import torch

    return torch.as_tensor(values, device=device)


class Program(NamedTuple):
    """A program that a runtime has loaded."""

    run: Callable[[list[Array]], list[Array]]
    inputs: list[Shape]
    outputs: list[Shape]
    make_stepper: Callable[[Shapes], Stepper]  # from the shapes of its inputs
    device: str = "cpu"  # where it runs; ONNX Runtime falls back to the CPU if there is no GPU


def _to_shape(sizes: Iterable[Any]) -> Shape:
    """The sizes of a runtime; what is no number there is any size."""
    return tuple(size if type(size) is int else None for size in sizes)


def load_onnx(path: Path, manifest: ExportManifest, device: str) -> Program:
    runtime = import_package("onnxruntime")
    providers: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
    if device != "cpu":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads.current()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads sleep
    options.log_severity_level = 3  # errors only, no reports about optimisations
    with redirect_stdout(io.StringIO()):  # where it prints that it found no GPU
        session = runtime.InferenceSession(path, options, providers=providers)
    names = [entry.name for entry in session.get_inputs()]

    def run(arrays: list[Array]) -> list[Array]:
        return list(session.run(None, dict(zip(names, map(as_array, arrays), strict=True))))

    inputs, outputs = ([_to_shape(entry.shape) for entry in get()] for get in (session.get_inputs, session.get_outputs))
    device = device if "CUDAExecutionProvider" in session.get_providers() else "cpu"

    def make_stepper(shapes: Shapes) -> Stepper:
        return OnnxStepper(runtime, session, shapes[0], shapes[1:], device)

    return Program(run, inputs, outputs, make_stepper, device)


def load_openvino(path: Path, manifest: ExportManifest, device: str) -> Program:
    openvino = import_package("openvino")
    hint = "bf16" if manifest.precision == "bf16" else "f32"  # for all operations that are not int8
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads.current()}
    core = openvino.Core()
    program = core.read_model(path)

    @lru_cache(_MAX_COMPILED)
    def compiled_for(shapes: tuple[tuple[int, ...], ...]) -> Any:
        """The program for inputs of these shapes; faster than one for any. Without shapes one for any."""
        fixed = core.read_model(path)
        if shapes:
            fixed.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        with keep_signal_stack():
            return core.compile_model(fixed, "CPU", settings)

    def run(arrays: list[Array]) -> list[Array]:
        arrays = list(map(as_array, arrays))
        # A streaming step in int8 for any B gives other results with OpenVINO 2026.4, which the parity check finds.
        compiled = compiled_for(tuple(array.shape for array in arrays) if manifest.state else ())
        return [array.copy() for array in compiled(arrays).values()]

    def make_stepper(shapes: Shapes) -> Stepper:
        return OpenVinoStepper(openvino, compiled_for(tuple(shapes)), len(shapes) - 1)

    def shape(port: Any) -> Shape:
        return tuple(size.get_length() if size.is_static else None for size in port.partial_shape)

    return Program(run, list(map(shape, program.inputs)), list(map(shape, program.outputs)), make_stepper)


def load_torch(path: Path, manifest: ExportManifest, device: str) -> Program:
    import torch
    from torch.export.passes import move_to_device_pass

    exported = torch.export.load(path)
    # the pass also moves the constants of the graph, unlike module.to
    module = (exported if device == "cpu" else move_to_device_pass(exported, device)).module()

    def run(arrays: list[Array]) -> list[Array]:
        frame, *state = (as_tensor(values, device) for values in arrays)
        with torch.inference_mode():
            return list(module(frame, state) if manifest.state else module(frame))

    def make_stepper(shapes: Shapes) -> Stepper:
        return FunctionStepper(run, [np.zeros(shape, np.float32) for shape in shapes[1:]])

    nodes, signature = {node.name: node for node in exported.graph.nodes}, exported.graph_signature
    inputs, outputs = (
        [_to_shape(nodes[name].meta["val"].shape) for name in names]
        for names in (signature.user_inputs, signature.user_outputs)
    )
    return Program(run, inputs, outputs, make_stepper, device)


LOADERS: dict[str, Callable[[Path, ExportManifest, str], Program]] = {
    "onnx": load_onnx,
    "openvino": load_openvino,
    "torch": load_torch,
}
