"""What becomes of the models of `real.py` in use: int8 exports, merged tokens, unchanged patches, time of a frame."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import log_progress
from real_tasks import IMAGE_SIZE, Footage, test_batches, train_pairs
from real_training import Run, build_model
from xvit import XViT, count_macs
from xvit.checkpoint import CARD, CONFIG, EXPORTED, checkpoint_files
from xvit.data.decode.sequential import FrameReader
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.export import ExportedModel
from xvit.export.manifest import ExportManifest, Format
from xvit.export.programs import write_program
from xvit.models.stream_patches import ChangedPatches
from xvit.models.streaming import Stream
from xvit.utils.files import write_json
from xvit.utils.timing import time_interleaved

SIZES = (IMAGE_SIZE, 224)
THRESHOLDS = (0.0, 0.01, 0.02, 0.05)  # in the units of normalised pixel values
TOME_R = (1, 2, 4)
TIMED = "vtest.avi"
_CALIBRATION_CLIPS = 100


def kept_run(task: str) -> Run:
    """The training whose model is kept, to be exported."""
    return Run(task=task, scheme="mixing, replicate", tune="full", seed=0)


def export_int8(model: XViT, directory: Path, format: Format, clips: Sequence[Tensor]) -> ExportedModel:
    """The model as an int8 program, calibrated on uint8 clips (1, T, C, S, S)."""
    manifest = ExportManifest(format=format, precision="int8")
    files = checkpoint_files(model.checkpoint_metadata)
    for name in (CONFIG, CARD):
        (directory / name).write_bytes(files[name])
    dynamic = write_program(model, directory, manifest, calibration=list(clips), on_progress=lambda *_: None)
    write_json(directory / EXPORTED, asdict(replace(manifest, dynamic_frames=dynamic)))
    return ExportedModel(directory)


def merge_tokens(model: XViT, r: int) -> XViT:
    """The same weights with token merging."""
    merging = XViT(replace(model.config, tome_r=r)).eval()
    merging.load_state_dict(model.state_dict())
    return merging


@torch.inference_mode()
def measure_agreement(directory: Path, task: str, footage: Sequence[Footage]) -> list[list[str]]:
    """Rows: of a trained model and what is made of it, how often its class on the test clips is that of the model."""
    model = XViT.from_pretrained(directory).eval()
    batches = list(test_batches(footage, task, model.clip_spec))
    labels = torch.cat([labels for _, labels in batches])
    clips = [clips for clips, _ in batches]
    expected = torch.cat([model(x) for x in clips])
    rows = [_row(f"{task}: float32", expected, expected, labels, model)]
    for r in TOME_R:
        merging = merge_tokens(model, r)
        rows.append(_row(f"{task}: tome_r {r}", torch.cat([merging(x) for x in clips]), expected, labels, merging))
    for format in ("openvino", "onnx"):
        pairs = islice(train_pairs(footage, task, seed=0), _CALIBRATION_CLIPS)
        calibration = [pair[index % 2][None] for index, pair in enumerate(pairs)]
        with tempfile.TemporaryDirectory() as folder:
            exported = export_int8(model, Path(folder), format, calibration)
            logits = torch.cat([exported(x[i : i + 1]) for x in clips for i in range(len(x))])
        rows.append(_row(f"{task}: int8, {format}", logits, expected, labels, model))
    return rows


def _row(name: str, logits: Tensor, expected: Tensor, labels: Tensor, model: XViT) -> list[str]:
    found = logits.argmax(dim=-1)
    same, right = (float((found == other).float().mean()) for other in (expected.argmax(dim=-1), labels))
    difference = float((logits - expected).abs().max())
    macs = count_macs(model, image_size=IMAGE_SIZE) / 1e9
    return [name, f"{100 * same:.1f} %", f"{100 * right:.1f} %", f"{difference:.3f}", f"{macs:.2f}"]


@torch.inference_mode()
def measure_patches(videos: Sequence[Path], weights: Path) -> list[list[str]]:
    """Rows: of each video, at its own frame rate, the share of patches that `xvit stream` would carry forward."""
    model = build_model(weights, "mixing, replicate", causal=True).eval()
    rows = []
    for path in videos:
        log_progress(f"unchanged patches: {path.name}")
        for size in SIZES:
            spec = replace(model.clip_spec, image_size=size)
            patches = [ChangedPatches(model, threshold) for threshold in THRESHOLDS]
            computed, total = np.zeros(len(THRESHOLDS)), 0
            for _, frames in FrameReader(path, short_side=size):
                for frame in normalize(eval_views(as_tensor(frames), spec)[0], spec):
                    computed += [len(item.select(frame[None, None])) - item.num_prefix_tokens for item in patches]
                    total += (size // patches[0].patch_size[0]) ** 2
            shares = 1 - computed / total
            rows.append([path.name, f"{size} px", *(f"{100 * share:.1f} %" for share in shares)])
    return rows


def _push_next(stream: Stream, frames: Iterator[Tensor]) -> None:
    stream.push(next(frames))


@torch.inference_mode()
def measure_times(video: Path, weights: Path) -> list[list[str]]:
    """Rows: median milliseconds of one frame of the video in a stream of each kind."""
    rows = []
    for size in SIZES:
        steps = {}
        for name, scheme, threshold in (
            ("spatial", "spatial", None),
            ("mixing", "mixing, replicate", None),
            ("mixing, unchanged patches carried (0.02)", "mixing, replicate", 0.02),
        ):
            model = build_model(weights, scheme, causal=True, image_size=size).eval()
            spec = model.clip_spec
            frames = torch.cat([eval_views(as_tensor(x), spec)[0] for _, x in islice(FrameReader(video), 8)])
            endless = cycle(normalize(frames, spec)[None].split(1, dim=1))
            steps[name] = partial(_push_next, Stream(model, unchanged_threshold=threshold), endless)
        seconds = time_interleaved(steps, rounds=56, warm_up=8)
        rows += [[name, f"{size} px", f"{1000 * statistics.median(x):.1f}"] for name, x in seconds.items()]
    return rows
