"""What mixing costs over the image model: XViT against timm's own ViT on the same frames, in one interleaved run.

    python benchmarks/overhead.py [--backbone vit_base_patch16_224] [--num-frames 8] [--rounds 15] [--json]

Times are medians over interleaved rounds after a warm-up; a round's ratio is taken within the round, so that a machine
that slows down slows both. Peak memory is that of a process of its own for each model, as the system counts it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from xvit import create_model
from xvit.timing import interleaved

VARIANTS = ("image model", "xvit mixing", "xvit spatial")
Step = Callable[[], None]


def build(variant: str, backbone: str, num_frames: int) -> tuple[nn.Module, Tensor]:
    """The model and its input: the same frames, as a clip for XViT and as a batch for the image model."""
    torch.manual_seed(0)
    if variant == "image model":
        model: nn.Module = timm.create_model(backbone, num_classes=174)
    else:
        model = create_model(backbone, num_classes=174, num_frames=num_frames, attention=variant.split()[1])
    size = 224
    clip = torch.randn(1, num_frames, 3, size, size)
    return model, clip.flatten(0, 1) if variant == "image model" else clip


def inference(model: nn.Module, x: Tensor) -> Step:
    """One forward pass in eval mode."""
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(x)

    return step


def training(model: nn.Module, x: Tensor) -> Step:
    """One forward and backward pass and an SGD update."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


MODES = {"inference": inference, "training": training}


def peak_memory(variant: str, mode: str, args: argparse.Namespace) -> int:
    """Peak resident bytes of a process that takes three steps with this model alone."""
    command = [sys.executable, __file__, "--backbone", args.backbone, "--num-frames", str(args.num_frames)]
    command += ["--threads", str(args.threads), "--memory-of", variant, "--mode", mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def tell(what: str) -> None:
    """Say on standard error what is being measured: it takes some minutes, and standard output is the result's."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        step = MODES[args.mode](*build(args.memory_of, args.backbone, args.num_frames))
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return

    # Memory first: a child starts with the peak of the process that forked it.
    memory: dict[str, dict[str, int]] = {mode: {} for mode in MODES}
    for mode in MODES:
        for variant in VARIANTS:
            tell(f"memory, {mode}, {variant}")
            memory[mode][variant] = peak_memory(variant, mode, args)
    rows = []
    for mode, make in MODES.items():
        tell(f"time, {mode}, {args.rounds} rounds")
        steps = {variant: make(*build(variant, args.backbone, args.num_frames)) for variant in VARIANTS}
        seconds = interleaved(steps, rounds=args.rounds)
        del steps
        for variant in VARIANTS:
            ratios = [a / b for a, b in zip(seconds[variant], seconds["image model"], strict=True)]
            rows.append(
                {
                    "mode": mode,
                    "model": variant,
                    "seconds": statistics.median(seconds[variant]),
                    "time_ratio": statistics.median(ratios),
                    "time_ratio_quartiles": [statistics.quantiles(ratios, n=4)[i] for i in (0, 2)],
                    "peak_bytes": memory[mode][variant],
                    "memory_ratio": memory[mode][variant] / memory[mode]["image model"],
                }
            )
    if args.json:
        print(json.dumps({"backbone": args.backbone, "frames": args.num_frames, "rows": rows}, indent=2))
        return
    print(
        f"{args.backbone}, T = {args.num_frames}, one clip, fp32, {args.threads} threads, torch {torch.__version__}, "
    )
    print(f"{args.rounds} interleaved rounds; ratios to timm's image model on the same frames, medians [quartiles]\n")
    print(f"{'':10} {'':14} {'seconds':>8} {'time ratio':>22} {'peak MB':>9} {'memory ratio':>13}")
    for row in rows:
        low, high = row["time_ratio_quartiles"]
        print(
            f"{row['mode']:10} {row['model']:14} {row['seconds']:8.3f} {row['time_ratio']:8.3f} [{low:.3f}, {high:.3f}]"
            f" {row['peak_bytes'] / 1e6:9.0f} {row['memory_ratio']:13.3f}"
        )


if __name__ == "__main__":
    main()
