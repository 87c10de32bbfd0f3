"""A trained model as a program for other runtimes, measured against the model before anybody gets it.

checkpoint ─▶ torch.export ─▶ ONNX ─▶ OpenVINO          (int8: calibrated on clips, by NNCF)
                   │            │        │
                   └── model.pt2, model.onnx, model.xml, run by `xvit.export.runtime` ─▶ parity on other clips
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from xvit.checkpoint import format as checkpoint
from xvit.checkpoint.model_card import model_card
from xvit.export.parity import Limits, Parity, check, compare, read_clips
from xvit.export.programs import state_of, write_program
from xvit.export.runtime import PRECISIONS, PROGRAMS, ExportedModel, Format, Manifest, Precision, export_package
from xvit.models.profiling import model_hash
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_choice
from xvit.utils.files import atomic_directory
from xvit.utils.version import __version__

__all__ = ["Limits", "Parity", "export"]

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
_NOT_THERE = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 kernels for CPUs; take openvino or torch, or fp16",
    ("torch", "int8"): "take onnx or openvino",
    ("torch", "int8-weights"): "take onnx or openvino",
}


def export(
    model: XViT,
    output: str | Path,
    *,
    videos: Sequence[str],
    format: Format = "onnx",
    precision: Precision = "fp32",
    streaming: bool = False,
    clips: int = 100,
    limits: Limits | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Parity:
    """Export a model, measure it on real clips, and keep it only if its answers are the model's.

    Args:
        model: in eval mode, with its clip and labels.
        output: directory to make; nothing is left there if the export fails.
        videos: real videos like those it is for. `clips` of them are compared; int8 is calibrated on as many others.
        format: onnx, openvino or torch (a torch.export program).
        precision: fp32, fp16, bf16, int8 (weights and activations) or int8-weights.
        streaming: export one frame's step with its state, of a causal model (`XViT.stream`), instead of whole clips.
        clips: how many to compare.
        limits: what parity must reach; by default what `Limits` says for the precision.
        on_progress: called with what is being done, how many are done and of how many.

    Raises:
        XViTError: settings that do not go together, a runtime that is not installed, an output that holds things, too
            few videos, answers further from the model's than the limits.
    """
    folder = Path(output).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise XViTError(f"{folder}: exists and is not an empty folder; choose another --output")
    check_choice("format", format, PROGRAMS)
    check_choice("precision", precision, PRECISIONS)
    if (format, precision) in _NOT_THERE:
        raise XViTError(f"format={format!r} with precision={precision!r}: {_NOT_THERE[format, precision]}")
    packages = (*_PACKAGES[format], *(("nncf",) if "int8" in precision else ()))
    versions = {name: str(export_package(name).__version__) for name in packages}
    tell = on_progress or (lambda what, done, total: None)
    calibrated = precision == "int8"
    found = read_clips(model.clip_spec, videos, clips, calibrating=calibrated, on_progress=tell)
    manifest = Manifest(
        format=format,
        precision=precision,
        state=state_of(model) if streaming else {},
        source=model_hash(model),
        versions={"xvit": __version__, "torch": str(torch.__version__)} | versions,
    )
    with atomic_directory(folder) as folder:
        tell("exporting", 0, 1)
        description = model.checkpoint_metadata.to_dict()
        (folder / checkpoint.CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (folder / checkpoint.CARD).write_text(model_card(description), encoding="utf-8")
        any_frames = write_program(model, folder, manifest, calibration=found.calibration, on_progress=tell)
        manifest = replace(manifest, dynamic_frames=any_frames)
        _write_manifest(folder, manifest)
        tell("exporting", 1, 1)
        exported = ExportedModel(folder, trust_code=True)  # just written, by us
        parity = compare(model, exported, found.compared, size=_size(folder), on_progress=tell)
        check(parity, limits or Limits.of(precision))
        _write_manifest(folder, replace(manifest, parity=asdict(parity)))
    return parity


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / checkpoint.EXPORTED).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.*"))
