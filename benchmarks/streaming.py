"""What a streamed frame costs: against one frame through timm's image model, and against running the clip again.

    python benchmarks/streaming.py [--backbone vit_base_patch16_224] [--rounds 15] [--json]

Times are medians over interleaved rounds after a warm-up; ratios are taken within each round. Memory: a small model
takes 10 000 frames, and the process's resident memory is read on the way.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import timm
import torch

from common import Step, tell
from xvit import create_model
from xvit.models.streaming import Stream
from xvit.utils.timing import time_interleaved

CLIPS = (8, 16)  # T
SIZE = 224


def steps_of(backbone: str) -> tuple[dict[str, Step], dict[int, Stream]]:
    """One new frame, by each way; a clip of T frames again, for each T."""
    torch.manual_seed(0)
    image = timm.create_model(backbone, num_classes=174).eval()
    frame = torch.randn(1, 3, SIZE, SIZE)
    steps: dict[str, Step] = {"image model, 1 frame": lambda: _run(image, frame)}
    streams = {}
    for T in CLIPS:
        model = create_model(backbone, num_classes=174, num_frames=T, causal=True, temporal_position="head").eval()
        streams[T] = stream = Stream(model)
        stream.push(torch.randn(1, T, 3, SIZE, SIZE))  # a full ring
        clip = torch.randn(1, T, 3, SIZE, SIZE)
        steps[f"pushed frame, T = {T}"] = lambda stream=stream: _run(stream.push, frame[:, None])
        steps[f"clip again, T = {T}"] = lambda model=model, clip=clip: _run(model, clip)
    return steps, streams


def _run(function, x) -> None:
    with torch.inference_mode():
        function(x)


def resident_bytes() -> int:
    """This process's memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def memory_over(frames: int) -> list[tuple[int, int]]:
    """(frames pushed, resident bytes) of a small model's stream, at ten places."""
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
    model = create_model(
        "vit_tiny_patch16_224", num_classes=5, num_frames=8, causal=True, temporal_position="head",
        backbone_kwargs=small,
    ).eval()  # fmt: skip
    stream, seen = Stream(model), []
    for done in range(1, frames + 1):
        stream.push(torch.randn(1, 1, 3, 32, 32))
        if done % (frames // 10) == 0:
            seen.append((done, resident_bytes()))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tell("memory, 10 000 frames")
    memory = memory_over(10_000) if sys.platform == "linux" else []
    tell(f"time, {args.rounds} rounds")
    steps, streams = steps_of(args.backbone)
    seconds = time_interleaved(steps, rounds=args.rounds)

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    rows = [
        {
            "frames": T,
            "pushed_frame_seconds": statistics.median(seconds[f"pushed frame, T = {T}"]),
            "over_image_model": ratio(f"pushed frame, T = {T}", "image model, 1 frame"),
            "clip_again_over_pushed_frame": ratio(f"clip again, T = {T}", f"pushed frame, T = {T}"),
            "layer_bytes": streams[T].layer_bytes,
        }
        for T in CLIPS
    ]
    if args.json:
        print(json.dumps({"backbone": args.backbone, "rows": rows, "resident_bytes": memory}, indent=2))
        return
    image = statistics.median(seconds["image model, 1 frame"])
    print(f"{args.backbone}, fp32, {args.threads} threads, torch {torch.__version__}, {args.rounds} interleaved rounds")
    print(f"one frame through timm's image model: {image:.4f} s\n")
    heads = {"T": 4, "pushed frame": 13, "over image model": 17, "clip again / pushed frame": 26, "a layer's state": 16}
    print(" ".join(f"{head:>{width}}" for head, width in heads.items()))
    for row in rows:
        print(
            f"{row['frames']:4} {row['pushed_frame_seconds']:11.4f} s {row['over_image_model']:17.3f} "
            f"{row['clip_again_over_pushed_frame']:17.2f} (T = {row['frames']:2}) {row['layer_bytes'][0]:14,} B"
        )
    if memory:
        places = ", ".join(f"{resident / 1e6:.1f} MB at {done}" for done, resident in memory[:: len(memory) - 1])
        print(f"\nresident memory of a small model's stream: {places}")


if __name__ == "__main__":
    main()
