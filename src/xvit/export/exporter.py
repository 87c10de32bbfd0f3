"""Export of a trained model as a program for another runtime. The export is kept only if it passes a parity check.

checkpoint ─▶ torch.export ─▶ ONNX ─▶ OpenVINO          (int8: calibrated on clips, by NNCF)
                   │            │        │
                   └── model.pt2, model.onnx, model.xml, run by `xvit.export.runtime` ─▶ parity on other clips
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from xvit.checkpoint import CARD, CONFIG, EXPORTED, checkpoint_files
from xvit.data.annotations import Sample
from xvit.data.seen import find_seen
from xvit.export.backends import import_package
from xvit.export.manifest import ExportManifest, Format, Precision
from xvit.export.parity import (
    OnProgress,
    ParityLimits,
    ParityReport,
    check_parity,
    choose_videos,
    clip_comparisons,
    measure_parity,
    raw_comparisons,
    read_clips,
)
from xvit.export.programs import write_program
from xvit.export.runtime import ExportedModel
from xvit.export.streaming import state_shapes
from xvit.models.profiling import model_hash
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_directory, check_new_directory, write_json
from xvit.utils.version import __version__

_logger = logging.getLogger("xvit")
_MAX_NAMED = 3  # videos in a warning
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
_UNSUPPORTED = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 kernels for CPUs; use format openvino or torch, or precision fp16",
    ("torch", "int8"): "not supported; use format onnx or openvino",
    ("torch", "int8-weights"): "not supported; use format onnx or openvino",
}
_RAW_TORCH = "a torch.export program cannot resize frames of any size; use format onnx or openvino"
_UNSUPPORTED_RAW = {
    ("openvino", "bf16"): "its runtime would resize raw frames in bf16, too; use precision fp16",
    **{("torch", precision): f"raw frames are not supported: {_RAW_TORCH}" for precision in ("fp32", "fp16", "bf16")},
}


def export_model(
    model: XViT,
    output: str | Path,
    *,
    videos: Sequence[str],
    format: Format = "onnx",
    precision: Precision = "fp32",
    streaming: bool = False,
    raw_frames: bool = False,
    num_clips: int = 100,
    limits: ParityLimits | None = None,
    on_progress: OnProgress | None = None,
) -> ParityReport:
    """Export a model, compare the export with the model on real clips, and keep it only if it is within the limits.

    Args:
        model: in eval mode, with its clip spec and class names.
        output: directory to create; nothing is left there if the export fails.
        videos: files, folders and lists of real videos from the target domain. `num_clips` of them are compared; int8
            is calibrated on as many others, which should not be validation videos: those are named in a warning.
        format: onnx, openvino or torch (a torch.export program).
        precision: fp32, fp16, bf16, int8 (weights and activations) or int8-weights.
        streaming: instead of a program for clips, export one that takes one frame and the state of a `Stream`; needs
            a causal model.
        raw_frames: export a program that takes decoded frames (B, T, H, W, 3), uint8, of any size and returns scores.
        num_clips: number of clips to compare.
        limits: what the comparison must reach; by default those of `ParityLimits.for_precision`.
        on_progress: called with the name of the current stage, the number of steps done and their total.

    Raises:
        XViTError: settings that exclude each other, a runtime that is not installed, an output directory that is not
            empty, too few videos, outputs further from the model's than the limits.
    """
    output = check_new_directory(Path(output).resolve())
    if raw_frames and streaming:
        raise XViTError("raw_frames and streaming exclude each other: a streaming step takes normalised frames")
    manifest = ExportManifest(format=format, precision=precision, raw_frames=raw_frames)
    versions = _package_versions(manifest)
    on_progress = on_progress or (lambda stage, done, total: None)
    files = checkpoint_files(model.checkpoint_metadata)
    compared, calibrated = choose_videos(videos, num_clips, calibrate=precision == "int8")
    warn_of_validation_videos(model.provenance, calibrated)
    kept = [] if raw_frames else compared  # raw frames take too much memory: they are read when they are compared
    clips, calibration = (read_clips(model.clip_spec, paths, on_progress) for paths in (kept, calibrated))
    state = state_shapes(model) if streaming else {}
    manifest = replace(manifest, versions=versions, state=state, source_hash=model_hash(model))
    manifest = replace(manifest, compared_on=compared, calibrated_on=calibrated)
    with atomic_directory(output) as directory:
        on_progress("exporting", 0, 1)
        for name in (CONFIG, CARD):
            (directory / name).write_bytes(files[name])
        dynamic = write_program(model, directory, manifest, calibration=calibration, on_progress=on_progress)
        manifest = replace(manifest, dynamic_frames=dynamic)
        write_json(directory / EXPORTED, asdict(manifest))
        on_progress("exporting", 1, 1)
        exported = ExportedModel(directory, trust_code=True)  # written by this function
        size = sum(path.stat().st_size for path in directory.glob("model.*"))
        comparisons = clip_comparisons(clips, model.clip_spec)
        if raw_frames:
            comparisons = raw_comparisons(compared, model.clip_spec)
        report = measure_parity(
            model, exported, comparisons, num_clips=len(compared), size=size, on_progress=on_progress
        )
        check_parity(report, limits or ParityLimits.for_precision(precision, raw_frames=raw_frames))
        write_json(directory / EXPORTED, asdict(replace(manifest, parity=asdict(report))))
    return report


def warn_of_validation_videos(provenance: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Log a warning if calibration videos are among the validation videos of the model with this provenance.

    An int8 model that is fitted to them has a better result on them than on other videos.
    """
    if paths and "fingerprints" not in provenance.get("data", {}):
        _logger.warning(
            "the checkpoint does not record its validation videos: whether int8 is calibrated on some is not known"
        )
    found = find_seen(provenance, [Sample(path=path, label=None, id=path) for path in paths], "val")
    if found:
        names = ", ".join(sample.path for sample in found[:_MAX_NAMED])
        _logger.warning(
            "%d of %d calibration videos are validation videos of this model (%s%s): its accuracy on those will be too "
            "high; give training videos as --videos",
            *(len(found), len(paths), names, ", ..." if len(found) > _MAX_NAMED else ""),
        )


def _package_versions(manifest: ExportManifest) -> dict[str, str]:
    """The versions of the packages that the export needs; raises `XViTError` if one is missing."""
    format, precision = manifest.format, manifest.precision
    unsupported = _UNSUPPORTED | (_UNSUPPORTED_RAW if manifest.raw_frames else {})
    if (format, precision) in unsupported:
        raise XViTError(f"format={format!r} with precision={precision!r}: {unsupported[format, precision]}")
    packages = (*_PACKAGES[format], *(("nncf",) if "int8" in precision else ()))
    versions = {name: str(import_package(name).__version__) for name in packages}
    return {"xvit": __version__, "torch": str(torch.__version__)} | versions
