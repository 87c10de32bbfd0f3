"""Whether everything works on a GPU, and how fast: one command of at most eight minutes, without a network.

    python benchmarks/gpu.py --output result [--device cuda] [--only checks mixing ...] [--small]

Writes result/gpu.json and result/gpu.md, also after a stop. The parts:

    checks      logits and gradients of each kind of model against the CPU; streaming, compiled and in-place forms
    mixing      mixing over the image model: eager and compiled, fp32 and bf16, inference and training, with memory
    variants    ways to compute mixing
    stream      a frame pushed into a stream, for several parallel streams
    peers       other video transformers
    loader      how much of the accelerator's speed the loader lets a training reach
    motion      a training by the recipe `motion`, with its accuracy

--small takes tiny models and few rounds: it tries the script, on a CPU too.
"""

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

import gpu_checks
import gpu_report
import gpu_times
import gpu_training
from common import log_progress

PEERS = [
    "xvit mixing, tubelet 2",
    "xvit joint",
    "xvit divided",
    "xvit local",
    "TimeSformer",
    "ViViT",
    "VideoMAE",
    "MViT v2 small",
]
PEERS += ["Video Swin small"]


def measure_mixing(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The mixing model over the image model in each setting."""
    names = [gpu_times.IMAGE_MODEL, "xvit mixing alone", "xvit mixing", "xvit spatial"]
    settings = [
        {"precision": precision, "training": training, "compiled": compiled}
        for training in (False, True)
        for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True))
    ]
    rows = []
    for setting in settings:
        log_progress(f"  {setting}")
        models = names[:2] if setting["compiled"] else names  # half a minute for each that is compiled
        shared = shared_settings(args)
        if setting["precision"] == "fp32":  # slow, and steady
            shared["rounds"] = min(shared["rounds"], 20)
        rows.append(gpu_times.time_models(models, **shared, **setting))
    return rows


def measure_variants(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ways to compute mixing, beside the image model."""
    return [gpu_times.time_variants(**shared_settings(args), training=training) for training in (False, True)]


def measure_stream(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Streams of the backbone, one and several at once."""
    batch_sizes = [1, 2] if args.small else [1, 8, 32]
    rounds = shared_settings(args)["rounds"]
    return list(
        gpu_times.time_stream(backbone=args.backbone, batch_sizes=batch_sizes, rounds=rounds, device=args.device)
    )


def measure_peers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The other models in bf16, at 16 frames, which all of them support."""
    settings = shared_settings(args) | {"frames": 16, "precision": "bf16", "compiled": False, "training": False}
    if args.small:
        return [gpu_times.time_models([gpu_times.IMAGE_MODEL, "xvit mixing"], **settings)]
    return [gpu_times.time_models([gpu_times.IMAGE_MODEL, "xvit mixing", *PEERS], **settings)]


def measure_loader(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The loader beside training steps of a small and of the given backbone."""
    size = {"videos": 2, "steps": 2} if args.small else {"videos": 16, "steps": 24}
    backbones = [args.backbone] if args.small else ["vit_small_patch16_224", args.backbone]
    return [gpu_training.measure_loader_share(backbone=name, device=args.device, **size) for name in backbones]


def measure_motion(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The recipe `motion`."""
    size = {"clips_per_class": 6, "epochs": 1} if args.small else {"clips_per_class": 340, "epochs": 12}
    return [gpu_training.train_motion(device=args.device, **size)]


def check(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The checks; `failed` is the number of those that did not pass."""
    models = list(gpu_checks.check_models(args.device, ["mixing", "spatial"] if args.small else None))
    forms = list(gpu_checks.check_forms(args.device))
    return {"models": models, "forms": forms}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "checks": check,
    "mixing": measure_mixing,
    "variants": measure_variants,
    "stream": measure_stream,
    "peers": measure_peers,
    "loader": measure_loader,
    "motion": measure_motion,
}


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the timings of models share."""
    size = {"frames": 8, "batch_size": 1, "rounds": 5} if args.small else {"frames": 8, "batch_size": 16, "rounds": 40}
    return {"backbone": args.backbone, "device": args.device} | size


def describe_machine(device: str) -> dict[str, Any]:
    """The versions and the accelerator of the run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.processor() or device
    return {"device": name, **versions, "date": time.strftime("%Y-%m-%d")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": describe_machine(args.device), "seconds": {}, "errors": {}}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for part in args.only:
        log_progress(part)
        start = time.perf_counter()
        try:
            result[part] = PARTS[part](args)
        except Exception as error:  # the other parts are still worth measuring
            traceback.print_exc()
            result["errors"][part] = f"{type(error).__name__}: {error}"[:500]
        result["seconds"][part] = round(time.perf_counter() - start, 1)
        (args.output / "gpu.json").write_text(json.dumps(result, indent=1))
        (args.output / "gpu.md").write_text(gpu_report.to_markdown(result))
        if args.device != "cpu":
            torch.accelerator.empty_cache()
    print((args.output / "gpu.md").read_text())
    rows = [row for rows in result.get("checks", {}).values() for row in rows]
    return int(bool(result["errors"]) or not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
