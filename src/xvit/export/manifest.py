"""export.json in the directory of an exported model: how it was exported, and what its program needs."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xvit.checkpoint import EXPORTED
from xvit.utils.errors import XViTError, check_choices, did_you_mean
from xvit.utils.files import read_json

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights"]
MAX_STATE_VALUES = 2**28  # 1 GB: 10 times the state of the largest backbones
FRAME_MASK = "frame_mask"  # of the state: which places of the window of T frames hold a frame
PROGRAM_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}


@dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """The contents of export.json.

    Args:
        format: of the program, which decides the runtime.
        precision: of its weights and arithmetic; int8-weights computes in float32.
        state: of a streaming step: name and shape, without B, of each state tensor; empty for a program for clips.
        dynamic_frames: whether the program accepts clips of any number of frames.
        raw_frames: whether it takes uint8 frames of any size and gives scores, instead of clips and logits.
        source_hash: `model_hash` of the model that was exported.
        compared_on: the videos of the comparison.
        calibrated_on: the videos on which int8 was calibrated, none of them compared.
        parity: how far the outputs are from the model's, a `xvit.export.parity.ParityReport`.
        versions: of the packages that wrote it.

    Raises:
        XViTError: an unknown format or precision, wrong shapes of the state, raw frames with a state.
    """

    format: Format
    precision: Precision
    state: dict[str, list[int]] = field(default_factory=dict)
    dynamic_frames: bool = False
    raw_frames: bool = False
    source_hash: str = ""
    compared_on: list[str] = field(default_factory=list)
    calibrated_on: list[str] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.state, dict) or not all(map(_is_shape, self.state.values())):
            raise XViTError(f'key "state": expected a mapping of names to shapes, got {self.state!r:.80}')
        if sum(map(math.prod, self.state.values())) > MAX_STATE_VALUES:
            raise XViTError(f'key "state": expected at most {MAX_STATE_VALUES:,} values, got {self.state!r:.80}')
        if type(self.raw_frames) is not bool or (self.raw_frames and self.state):
            raise XViTError(f'key "raw_frames": expected false, or true without a state, got {self.raw_frames!r:.80}')

    @property
    def input_name(self) -> str:
        """Name of the program's input for pixels."""
        return "frames" if self.raw_frames else "pixel_values"

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of one stream, in float32. A step reads as many, and writes as many."""
        return 4 * sum(map(math.prod, self.state.values()))

    @property
    def reach(self) -> int:
        """How many earlier frames a frame's vector depends on in a stream: w of each block that mixes, added up."""
        kept: dict[str, int] = {}  # frames
        for name, shape in self.state.items():
            kind, _, rest = name.partition(".")
            if kind == "blocks":
                block = rest.partition(".")[0]
                kept[block] = max(kept.get(block, 0), shape[0])
        return sum(kept.values())


def is_exported(directory: str | Path) -> bool:
    """Whether a directory is that of an exported model."""
    return (Path(directory) / EXPORTED).is_file()


def read_manifest(directory: Path) -> ExportManifest:
    """Read export.json of a directory.

    Raises:
        XViTError: an unreadable file, an unknown key, a wrong value.
    """
    path = directory / EXPORTED
    values = read_json(path)
    if not isinstance(values, dict):
        raise XViTError(f"{path}: expected a mapping, got {values!r:.80}")
    known = ExportManifest.__dataclass_fields__
    for key in values:
        if key not in known:
            raise XViTError(f'{path}: unknown key "{key}".{did_you_mean(key, known)} Known: {", ".join(known)}')
    try:
        return ExportManifest(**values)
    except (XViTError, TypeError) as error:
        raise XViTError(f"{path}: {error}") from None


def _is_shape(value: Any) -> bool:
    """Whether it is the shape, without B, of a tensor of a possible size."""
    is_ints = isinstance(value, list) and all(type(n) is int and 0 < n < 10**6 for n in value)
    return is_ints and math.prod(value) < 10**9
