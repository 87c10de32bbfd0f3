"""Cost of a streamed frame, compared with one frame through timm's image model and with running the whole clip again.

    python benchmarks/streaming.py [--backbone vit_base_patch16_224] [--rounds 15] [--json]

Times are medians over interleaved rounds after a warm-up; ratios are computed within each round. For memory, a small
model processes 10 000 frames, and the resident memory of the process is recorded ten times.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch

from common import Step, log_progress
from xvit import create_model
from xvit.models.streaming import Stream
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
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
