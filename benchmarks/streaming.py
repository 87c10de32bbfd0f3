"""Cost of a streamed frame, compared with one frame through timm's image model and with running the whole clip again;
and the cost of exported streaming steps, compared with the eager one.

    python benchmarks/streaming.py [--backbone vit_base_patch16_224] [--rounds 15] [--json]
    python benchmarks/streaming.py --exports vit_small_patch16_224 [--rounds 50] [--json]

Times are medians over interleaved rounds after a warm-up; ratios are computed within each round. For memory, a small
model processes 10 000 frames, and the resident memory of the process is recorded ten times.

With --exports, an untrained causal model of that backbone (T = 8, 224 px) is exported to a temporary folder for ONNX
Runtime and OpenVINO, in fp32 and in int8, calibrated on generated motion clips. All steps are timed in turns, with the
same frames. State traffic is what a step reads and writes; copied is what of it lies elsewhere in the next step.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch

from common import Step, log_progress
from xvit import create_model
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.export import ExportedModel, ParityLimits, export_model
from xvit.export.manifest import Format, Precision
from xvit.export.stepping import OnnxStepper, OpenVinoStepper
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.utils import threads
from xvit.utils.timing import time_interleaved

NUM_FRAMES = (8, 16)  # T
SIZE = 224


def make_steps(backbone: str) -> tuple[dict[str, Step], dict[int, Stream]]:
    """The functions to time by name: one new frame each way, and whole clips of T frames, for each T. The streams."""
    torch.manual_seed(0)
    image = timm.create_model(backbone, num_classes=174).eval()
    frame = torch.randn(1, 3, SIZE, SIZE)
    steps: dict[str, Step] = {"image model, 1 frame": partial(_run, image, frame)}
    streams = {}
    for T in NUM_FRAMES:
        model = create_model(backbone, num_classes=174, num_frames=T, causal=True, temporal_position="head").eval()
        streams[T] = stream = Stream(model)
        clip = torch.randn(1, T, 3, SIZE, SIZE)
        stream.push(clip)  # fills the window
        steps[f"pushed frame, T = {T}"] = partial(_run, stream.push, frame[:, None])
        steps[f"whole clip, T = {T}"] = partial(_run, model, clip)
    return steps, streams


def _run(function: Callable[[torch.Tensor], object], x: torch.Tensor) -> None:
    with torch.inference_mode():
        function(x)


def resident_bytes() -> int:
    """Resident memory of this process (Linux only)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def measure_memory(num_frames: int) -> list[tuple[int, int]]:
    """Ten pairs of frames pushed and resident bytes, for the stream of a small model."""
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
    options = {"causal": True, "temporal_position": "head", "backbone_kwargs": small}
    stream = Stream(create_model("vit_tiny_patch16_224", num_classes=5, num_frames=8, **options).eval())
    measurements = []
    for pushed in range(1, num_frames + 1):
        stream.push(torch.randn(1, 1, 3, 32, 32))
        if pushed % (num_frames // 10) == 0:
            measurements.append((pushed, resident_bytes()))
    return measurements


def measure_exports(backbone: str, rounds: int) -> list[dict[str, object]]:
    """One row for the eager push and for each exported step: its time, compared with the eager one, and its state."""
    torch.manual_seed(0)
    model = create_model(backbone, num_classes=174, num_frames=8, causal=True, temporal_position="head").eval()
    stream, frames = Stream(model), torch.randn(rounds + 8, 1, 1, 3, SIZE, SIZE)
    turns = {"eager push": iter(frames)}
    rows: list[dict[str, object]] = [{"step": "eager push"}]
    with TemporaryDirectory() as folder:
        write_motion_dataset(Path(folder) / "videos", clips_per_class=2, val_fraction=0.5)
        steps: dict[str, Step] = {"eager push": lambda: _run(stream.push, next(turns["eager push"]))}
        for format in ("onnx", "openvino"):
            for precision in ("fp32", "int8"):
                name = f"{format} {precision}"
                stepper, row = _export(model, Path(folder), format, precision)
                rows.append({"step": name} | row)
                turns[name] = iter(frames)
                steps[name] = partial(_step, stepper, turns[name])
        log_progress(f"time, {rounds} rounds")
        seconds = time_interleaved(steps, rounds=rounds, warm_up=8)
    for row in rows:
        times, eager = seconds[str(row["step"])], seconds["eager push"]
        row["seconds"] = statistics.median(times)
        row["over_eager_push"] = statistics.median(a / b for a, b in zip(times, eager, strict=True))
    return rows


def _step(stepper: OnnxStepper | OpenVinoStepper, frames: Iterator[torch.Tensor]) -> None:
    stepper.step(next(frames).numpy())


def _export(
    model: XViT, folder: Path, format: Format, precision: Precision
) -> tuple[OnnxStepper | OpenVinoStepper, dict[str, object]]:
    """The steps of an export, and what is known of them before they are timed."""
    stages: list[str] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            stages.append(stage)
            log_progress(f"{format} {precision}: {stage}")

    directory = folder / f"{format}-{precision}"
    report = export_model(
        model,
        directory,
        videos=[str(folder / "videos")],
        format=format,
        precision=precision,
        streaming=True,
        num_clips=8,
        limits=ParityLimits(min_agreement=0),  # of random weights, whose top classes have almost equal logits
        on_progress=on_progress,
    )
    exported = ExportedModel(directory)
    stepper = exported.open_stepper()
    assert isinstance(stepper, OnnxStepper | OpenVinoStepper)
    _, written = stepper.addresses()
    stepper.step(np.zeros((1, 1, 3, SIZE, SIZE), np.float32))
    read, _ = stepper.addresses()
    sizes = [tensor.nbytes for tensor in exported.initial_state()]
    copied = sum(size for size, before, now in zip(sizes, written, read, strict=True) if before != now)
    state = {
        "state_bytes": exported.manifest.state_bytes,
        "state_traffic_bytes": 2 * sum(sizes),
        "copied_bytes": copied,
    }
    parity = {"max_difference": report.max_difference, "max_logit": report.max_logit, "agreement": report.agreement}
    return stepper, state | parity


def print_exports(backbone: str, rows: list[dict[str, Any]], rounds: int) -> None:
    """Print the table of the exported steps."""
    print(f"{backbone}, T = 8, {SIZE} px, {threads.current()} threads, {rounds} interleaved rounds")
    columns = {"step": 14, "time": 10, "frames/s": 9, "/ eager": 8, "state traffic": 14, "copied": 8, "difference": 11}
    print(" ".join(f"{column:>{width}}" for column, width in columns.items()))
    for row in rows:
        line = (
            f"{row['step']:>14} {1e3 * row['seconds']:7.2f} ms {1 / row['seconds']:9.1f} {row['over_eager_push']:8.3f}"
        )
        if "state_bytes" in row:
            line += (
                f" {row['state_traffic_bytes'] / 1e6:11.2f} MB {row['copied_bytes']:6} B {row['max_difference']:11.2g}"
            )
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--exports", metavar="BACKBONE", help="measure the exported steps of this backbone instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    threads.configure(args.threads)
    if args.exports:
        exports = measure_exports(args.exports, args.rounds)
        if args.json:
            print(json.dumps({"backbone": args.exports, "rows": exports}, indent=2))
        else:
            print_exports(args.exports, exports, args.rounds)
        return
    log_progress("memory, 10 000 frames")
    memory = measure_memory(10_000) if sys.platform == "linux" else []
    log_progress(f"time, {args.rounds} rounds")
    steps, streams = make_steps(args.backbone)
    seconds = time_interleaved(steps, rounds=args.rounds)

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    rows = [
        {
            "frames": T,
            "pushed_frame_seconds": statistics.median(seconds[f"pushed frame, T = {T}"]),
            "over_image_model": ratio(f"pushed frame, T = {T}", "image model, 1 frame"),
            "whole_clip_over_pushed_frame": ratio(f"whole clip, T = {T}", f"pushed frame, T = {T}"),
            "block_bytes": streams[T].block_bytes,
        }
        for T in NUM_FRAMES
    ]
    if args.json:
        print(json.dumps({"backbone": args.backbone, "rows": rows, "resident_bytes": memory}, indent=2))
        return
    image = statistics.median(seconds["image model, 1 frame"])
    print(f"{args.backbone}, fp32, {args.threads} threads, torch {torch.__version__}, {args.rounds} interleaved rounds")
    print(f"one frame through timm's image model: {image:.4f} s\n")
    columns = {"T": 4, "pushed frame": 13, "/ image model": 17, "whole clip / pushed frame": 26, "state per layer": 16}
    print(" ".join(f"{column:>{width}}" for column, width in columns.items()))
    for row in rows:
        print(
            f"{row['frames']:4} {row['pushed_frame_seconds']:11.4f} s {row['over_image_model']:17.3f} "
            f"{row['whole_clip_over_pushed_frame']:17.2f} (T = {row['frames']:2}) {row['block_bytes'][0]:14,} B"
        )
    if memory:
        first, last = (f"{resident / 1e6:.1f} MB after {pushed} frames" for pushed, resident in (memory[0], memory[-1]))
        print(f"\nresident memory of a small model's stream: {first}, {last}")


if __name__ == "__main__":
    main()
