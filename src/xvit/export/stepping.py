"""Streaming steps whose state is not copied from frame to frame: it lies in two sets of tensors of the runtime.

step 0    state A ──▶ program ──▶ state B         The program reads one set and writes the other one; then they
step 1    state B ──▶ program ──▶ state A         change places. On a GPU both stay there.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Shapes = Sequence[tuple[int, ...]]  # of the tensors of the state, with B


class Stepper(Protocol):
    """The steps of one stream."""

    def step(self, frame: np.ndarray) -> list[np.ndarray]:
        """The logits (B, classes) of each task at the next frame (B, 1, C, H, W), float32."""

    def reset(self) -> None:
        """Set the state to zeros: the next frame is the first of another video."""


class OnnxStepper:
    """Steps of an ONNX Runtime session, through I/O binding.

    Args:
        runtime: the module `onnxruntime`.
        session: of the program.
        frame: shape of a frame, (B, 1, C, H, W).
        state: shapes of the state.
        device: where it is kept: cpu, or a GPU such as cuda:0.
    """

    def __init__(self, runtime: Any, session: Any, frame: tuple[int, ...], state: Shapes, device: str) -> None:
        kind, _, index = device.partition(":")

        def allocate(shapes: Shapes) -> list[Any]:
            create = runtime.OrtValue.ortvalue_from_shape_and_type
            return [create(shape, np.float32, kind, int(index or 0)) for shape in shapes]

        self._session, self._zeros = session, [np.zeros(shape, np.float32) for shape in state]
        self._frame, self._states = allocate([frame])[0], [allocate(state), allocate(state)]
        self._bindings = [self._bind(*self._states), self._bind(*self._states[::-1])]
        self._turn = 0  # the set that the next step reads
        self.reset()

    def _bind(self, state: list[Any], next_state: list[Any]) -> Any:
        binding, outputs = self._session.io_binding(), self._session.get_outputs()
        for entry, value in zip(self._session.get_inputs(), [self._frame, *state], strict=True):
            binding.bind_ortvalue_input(entry.name, value)
        tasks = len(outputs) - len(next_state)
        for entry in outputs[:tasks]:
            binding.bind_output(entry.name)  # to a new array of each step
        for entry, value in zip(outputs[tasks:], next_state, strict=True):
            binding.bind_ortvalue_output(entry.name, value)
        return binding

    def step(self, frame: np.ndarray) -> list[np.ndarray]:
        """See `Stepper`."""
        binding = self._bindings[self._turn]
        self._frame.update_inplace(frame)
        self._session.run_with_iobinding(binding)
        self._turn = 1 - self._turn
        outputs = binding.get_outputs()
        return [value.numpy() for value in outputs[: len(outputs) - len(self._zeros)]]

    def reset(self) -> None:
        """See `Stepper`."""
        for value, zeros in zip(self._states[self._turn], self._zeros, strict=True):
            value.update_inplace(zeros)

    def addresses(self) -> tuple[list[int], list[int]]:
        """Where in memory the next step reads each tensor of the state, and where it writes the next state."""
        read, written = self._states[self._turn], self._states[1 - self._turn]
        return [value.data_ptr() for value in read], [value.data_ptr() for value in written]


class OpenVinoStepper:
    """Steps of an OpenVINO program: two infer requests, bound to the same tensors crosswise.

    Args:
        openvino: the module.
        compiled: the program, compiled for one B.
        num_state: number of tensors of its state.
    """

    def __init__(self, openvino: Any, compiled: Any, num_state: int) -> None:
        def allocate(ports: list[Any]) -> list[Any]:
            return [openvino.Tensor(port.element_type, port.shape) for port in ports]

        num_tasks = len(compiled.outputs) - num_state
        [self._frame, *first] = allocate(compiled.inputs)
        self._logits, self._states = allocate(compiled.outputs[:num_tasks]), [first, allocate(compiled.inputs[1:])]
        self._requests = [compiled.create_infer_request() for _ in self._states]
        for request, state, next_state in zip(self._requests, self._states, self._states[::-1], strict=True):
            for index, tensor in enumerate([self._frame, *state]):
                request.set_input_tensor(index, tensor)
            for index, tensor in enumerate([*self._logits, *next_state]):
                request.set_output_tensor(index, tensor)
        self._turn = 0  # the set that the next step reads
        self.reset()

    def step(self, frame: np.ndarray) -> list[np.ndarray]:
        """See `Stepper`."""
        self._frame.data[:] = frame
        self._requests[self._turn].infer(share_outputs=True)  # without it, Python would get a copy of the state
        self._turn = 1 - self._turn
        return [tensor.data.copy() for tensor in self._logits]

    def reset(self) -> None:
        """See `Stepper`."""
        for tensor in self._states[self._turn]:
            tensor.data[:] = 0

    def addresses(self) -> tuple[list[int], list[int]]:
        """See `OnnxStepper.addresses`."""
        read, written = (
            [request.get_input_tensor(1 + index).data.ctypes.data for index in range(len(self._states[0]))]
            for request in (self._requests[self._turn], self._requests[1 - self._turn])
        )
        return read, written


class FunctionStepper:
    """Steps of a function that returns the next state in tensors of its own, as torch does: nothing is copied either.

    Args:
        run: takes a frame and the state; returns the logits of each task and the next state.
        initial_state: of zeros.
    """

    def __init__(self, run: Callable[[list[Any]], list[Any]], initial_state: Sequence[np.ndarray]) -> None:
        self._run, self._initial_state = run, initial_state
        self._state: list[Any] = list(initial_state)

    def step(self, frame: np.ndarray) -> list[np.ndarray]:
        """See `Stepper`."""
        outputs = self._run([frame, *self._state])
        num_tasks = len(outputs) - len(self._state)
        self._state = outputs[num_tasks:]
        return [logits.numpy(force=True) for logits in outputs[:num_tasks]]

    def reset(self) -> None:
        """See `Stepper`."""
        self._state = list(self._initial_state)
