"""Running exported models with ONNX Runtime, OpenVINO or torch.export, with the interface of the original model.

The runtimes themselves are in `xvit.export.backends`; of them only torch.export needs torch.

The directory of an exported model holds config.json (as in a checkpoint), export.json (how it was exported, and how far
its outputs are from the model's) and the program:

    onnx       model.onnx                  data, not code: opening one never executes code
    openvino   model.xml, model.bin        the same
    torch      model.pt2                   a program that can hold any code: opened only with `trust_code`
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from xvit import checkpoint
from xvit.config import SINGLE_TASK, ClassNames, ClipSpec, ModelConfig, as_task_dict, unwrap_single_task
from xvit.export.backends import LOADERS, Array, Shape, as_array, as_tensor, choose_device, is_tensor
from xvit.export.manifest import FRAME_MASK, PROGRAM_FILES, read_manifest
from xvit.export.stepping import Stepper
from xvit.utils.errors import XViTError, one_line

if TYPE_CHECKING:
    import torch


class ExportedModel:
    """An exported model, called like an `XViT`: clips in, logits out. `Predictor` and evaluation accept either.

    NumPy arrays in, arrays out; torch tensors in, tensors out. A streaming step also accepts clips: it runs on their
    frames in turn and returns the logits after the last one. A program for raw frames takes these and returns scores.

    Args:
        directory: written by `xvit export`.
        device: where it runs, such as cuda:1; OpenVINO runs on the CPU. None for the accelerator, if there is one that
            the runtime can use.
        trust_code: open a `torch` program, which can hold any code. ONNX and OpenVINO files cannot.

    Attributes:
        config, clip_spec, class_names, calibration: as of the model that was exported.
        device: the name of the device.
        manifest: how it was exported.

    Raises:
        XViTError: not the directory of an exported model, a damaged file, a program that does not go with config.json,
            a runtime that is not installed, a torch program without `trust_code`, a device that the runtime cannot use.
    """

    def __init__(
        self, directory: str | Path, *, device: "str | torch.device | None" = "cpu", trust_code: bool = False
    ) -> None:
        directory = Path(directory)
        metadata = checkpoint.read_metadata(directory)
        self.config: ModelConfig = metadata.model
        self.clip_spec: ClipSpec = metadata.clip_spec
        self.class_names: ClassNames = metadata.class_names
        self.calibration = metadata.calibration
        self.manifest = read_manifest(directory)
        self.precision = self.manifest.precision
        self.in_chans = cast(int, self.config.backbone_kwargs.get("in_chans", 3))
        self._path = directory / PROGRAM_FILES[self.manifest.format]
        if not self._path.is_file():
            raise XViTError(f"{self._path}: missing; the export is incomplete")
        if self.manifest.format == "torch" and not trust_code:
            raise XViTError(
                f"{self._path}: a torch.export program can hold any code. If you trust its author, pass --trust-code "
                "(trust_code=True); ONNX and OpenVINO exports do not need it"
            )
        chosen = choose_device(self.manifest.format, device)
        with _runtime_errors(self._path):
            program = LOADERS[self.manifest.format](self._path, self.manifest, chosen)
        if device is not None and program.device != chosen:
            raise XViTError(f"device={chosen!r}: the {self.manifest.format} runtime finds none; use --device cpu")
        self.device = program.device
        self._check_shapes("inputs", program.inputs, self._expected_inputs(), _has_sizes)
        self._check_shapes("outputs", program.outputs, self._expected_outputs(), _may_have_sizes)
        self._run, self._make_stepper = program.run, program.make_stepper

    def __call__(self, pixel_values: Array) -> Any:
        """Classify clips (B, T, C, H, W), float32, normalised as `clip_spec` says.

        With `manifest.raw_frames`, these are raw frames (B, T, H, W, C), uint8, of any size.

        Returns:
            Logits (B, classes), or scores of raw frames; for several tasks a dict of them.

        Raises:
            XViTError: a shape or type that the program does not accept, an empty batch, a program that does not match
                its config.json.
        """
        if not isinstance(pixel_values, np.ndarray) and not is_tensor(pixel_values):
            raise XViTError(f"pixel_values: {type(pixel_values).__name__}: expected a NumPy array or a torch tensor")
        self._check_pixels(tuple(pixel_values.shape), str(pixel_values.dtype))
        if not self.manifest.state:
            return self.step(pixel_values, [])[0]
        state = self.initial_state(len(pixel_values))
        for index in range(pixel_values.shape[1]):
            logits, state = self.step(pixel_values[:, index : index + 1], state)
        return logits

    def _check_pixels(self, shape: tuple[int, ...], dtype: str) -> None:
        """Raise `XViTError` for a shape or type of the input that the program does not accept."""
        T, min_frames = self.config.num_frames, self.config.window + 2  # exporters assume more frames than the window
        raw, dynamic = self.manifest.raw_frames, self.manifest.dynamic_frames
        frames = shape[1] if len(shape) == 5 and dynamic and shape[1] >= min_frames else T
        size = (self.clip_spec.image_size,) * 2
        if raw and len(shape) == 5:
            size = max(shape[2], 1), max(shape[3], 1)  # any
        expected = (frames, *size, self.in_chans) if raw else (frames, self.in_chans, *size)
        if shape[1:] != expected:
            sizes = f"H, W, {self.in_chans}" if raw else ", ".join(map(str, expected[1:]))
            raise XViTError(
                f"pixel_values of shape {shape}: expected (B, T, {sizes}) with "
                f"T = {f'at least {min_frames}' if dynamic else T}"
            )
        if not shape[0]:
            raise XViTError(f"pixel_values of shape {shape}: an empty batch; expected at least 1 clip (B)")
        kind = ("uint8", "raw frames") if raw else ("float32", "normalised floats")
        if dtype.removeprefix("torch.") != kind[0]:
            raise XViTError(f"pixel_values of {dtype}: expected {kind[1]} ({kind[0]})")

    def classify(self, pixel_values: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Scores (B, classes) of each task, and margins (B,) of each calibrated one; see `__call__` for the input."""
        if not self.manifest.raw_frames:
            return self.score(as_task_dict(self(pixel_values)))
        self._check_pixels(tuple(pixel_values.shape), str(pixel_values.dtype))
        outputs, margins = self.step(pixel_values, [])
        scores = {task: self.probabilities(x, task) for task, x in as_task_dict(outputs).items()}
        return scores, dict(zip(self.calibration, map(as_array, margins), strict=True))

    def score(self, logits: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Scores and margins, as `classify` returns them, of logits (B, classes) of each task."""
        scores = {task: self.probabilities(x, task) for task, x in logits.items()}
        return scores, {task: c.margins(logits[task]) for task, c in self.calibration.items()}

    def probabilities(self, logits: Array, task: str = SINGLE_TASK) -> Any:
        """Class scores in [0, 1], float32, of logits (..., classes); see `XViT.probabilities`.

        What a program for raw frames returns are scores, which stay as they are.

        Raises:
            XViTError: NaN or infinite logits.
        """
        values = as_array(logits).astype(np.float32)
        if not np.isfinite(values).all():
            raise XViTError("the model's logits are NaN or infinite: weights too large for its precision, or damaged")
        if task in self.calibration and not self.manifest.raw_frames:
            values = values / np.float32(self.calibration[task].temperature)
        if self.manifest.raw_frames:
            scores = values
        elif self.config.multi_label:
            scores = np.exp(-np.logaddexp(np.float32(0), -values))  # the sigmoid, exact for small scores, too
        else:
            powers = np.exp(values - values.max(axis=-1, keepdims=True))
            scores = powers / powers.sum(axis=-1, keepdims=True)
        return as_tensor(scores, logits.device) if is_tensor(logits) else scores

    def _expected_inputs(self) -> list[Shape]:
        """The shapes that config.json and export.json describe: the pixels, then the state."""
        size, state = self.clip_spec.image_size, self.manifest.state.values()
        frames = 1 if state else None if self.manifest.dynamic_frames else self.config.num_frames
        if self.manifest.raw_frames:
            return [(None, frames, None, None, self.in_chans)]
        return [(None, frames, self.in_chans, size, size), *((None, *shape) for shape in state)]

    def _expected_outputs(self) -> list[Shape]:
        logits: list[Shape] = [(None, classes or None) for classes in self.config.tasks.values()]
        margins: list[Shape] = [(None,)] * len(self.calibration) if self.manifest.raw_frames else []
        return [*logits, *margins, *((None, *shape) for shape in self.manifest.state.values())]

    def _check_shapes(
        self, kind: str, found: list[Shape], expected: list[Shape], fits: Callable[[int | None, int | None], bool]
    ) -> None:
        """Raise `XViTError` if the program has other inputs or outputs, before memory is allocated for them."""
        same = list(map(len, found)) == list(map(len, expected))
        if not same or not all(map(fits, chain.from_iterable(found), chain.from_iterable(expected))):
            raise XViTError(
                f"{self._path}: not the program of {checkpoint.CONFIG} and {checkpoint.EXPORTED}: "
                f"{kind} {_describe_shapes(found)}, expected {_describe_shapes(expected)}"
            )

    def initial_state(self, batch_size: int = 1) -> list[Array]:
        """The state of a streaming step before the first frame: arrays (B, ...), in the order of the manifest."""
        return [np.zeros((batch_size, *shape), np.float32) for shape in self.manifest.state.values()]

    def step(self, frame: Array, state: list[Array]) -> tuple[Any, list[Array]]:
        """Run a streaming step on one frame.

        Args:
            frame: (B, 1, C, H, W), float32, normalised.
            state: returned for the previous frame, or `initial_state`; its arrays are those of the runtime.

        Returns:
            Logits (B, classes) of the last T frames, or of those so far; the new state. (Before the T-th frame, exports
            of earlier versions of xvit return other logits.)
        """
        with _runtime_errors(self._path):
            outputs = self._run([frame, *state])
        # Its file may not say them, and a damaged program may give others.
        expected: list[Shape] = [(len(frame), *sizes) for _, *sizes in self._expected_outputs()]
        self._check_shapes("results", [tuple(output.shape) for output in outputs], expected, _has_sizes)
        num_tasks = len(self.config.tasks)
        convert: Any = partial(as_tensor, device=frame.device) if is_tensor(frame) else as_array
        logits = dict(zip(self.config.tasks, map(convert, outputs[:num_tasks]), strict=True))
        return unwrap_single_task(logits), outputs[num_tasks:]

    def open_stepper(self, batch_size: int = 1) -> Stepper:
        """The steps of a new stream, which keep their state to themselves and do not copy it, unlike `step`.

        Raises:
            XViTError: a program for clips; a streaming step of an earlier version of xvit; a damaged program.
        """
        if not self.manifest.state:
            raise XViTError(
                f"{self._path.parent}: an export for clips cannot be streamed: use one of xvit export --streaming"
            )
        if FRAME_MASK not in self.manifest.state:
            raise XViTError(
                f"{self._path.parent}: a streaming step of an earlier version of xvit, whose first "
                f"{self.config.num_frames - 1} predictions are wrong: export the model again"
            )
        shapes = [(batch_size, *cast("tuple[int, ...]", shape[1:])) for shape in self._expected_inputs()]
        with _runtime_errors(self._path):
            return self._make_stepper(shapes)

    def model_hash(self) -> str:
        """Hash of the program's files, 16 characters."""
        digest = hashlib.sha256()
        for path in sorted(self._path.parent.glob("model.*")):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]


def _has_sizes(found: int | None, expected: int | None) -> bool:
    return expected is None or found == expected


def _may_have_sizes(found: int | None, expected: int | None) -> bool:
    """Whether a size is right, or not known: some runtimes do not infer the shapes of outputs."""
    return found is None or _has_sizes(found, expected)


def _describe_shapes(shapes: list[Shape], limit: int = 3) -> str:
    texts = [f"({', '.join('any' if size is None else str(size) for size in shape)})" for shape in shapes[:limit]]
    return ", ".join(texts) + f", ... ({len(shapes)})" * (len(shapes) > limit)


@contextmanager
def _runtime_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a runtime into `XViTError`: many kinds for a damaged, hostile or mismatched program."""
    try:
        yield
    except XViTError:
        raise
    except Exception as error:
        reason = one_line(error, name=True)
        raise XViTError(
            f"{path}: damaged, or not compatible with the installed version of its runtime ({reason})"
        ) from None
