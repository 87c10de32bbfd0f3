"""Training on an accelerator, with videos: a part of gpu.py."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import loader as loader_benchmark
from xvit import create_model
from xvit.config import AugmentConfig
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.loader import VideoLoader, make_loader
from xvit.data.transforms import normalize

BATCH_SIZE = 16  # clips
WARM_UP = 3  # steps


def measure_loader_share(*, backbone: str, videos: int, steps: int, device: str) -> dict[str, Any]:
    """Clips per second of the loader alone, of training steps alone, and of both together.

    Videos, clips and augmentation are those of loader.py; training is in bf16. "share" is the part of the
    accelerator's speed that the loader lets it reach.
    """
    num_workers = max((os.cpu_count() or 2) - 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.mp4" for index in range(videos)]
        with multiprocessing.Pool(num_workers) as pool:
            pool.starmap(_write_video, enumerate(paths))
        samples = [Sample(path=str(path), label=0, id=str(path)) for path in paths]
        samples *= math.ceil((steps + WARM_UP) * BATCH_SIZE / videos)
        augment = AugmentConfig(scale_jitter=loader_benchmark.JITTER, horizontal_flip=0.5, auto_augment="auto")
        dataset = VideoDataset(samples=samples, clip_spec=loader_benchmark.SPEC, augment=augment, class_names=["a"])
        make = partial(make_loader, dataset, batch_size=BATCH_SIZE, num_workers=num_workers, pin_memory=device != "cpu")
        model = create_model(backbone, num_classes=400, num_frames=loader_benchmark.T).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

        def train(pixels: torch.Tensor) -> None:
            pixel_values = normalize(pixels, loader_benchmark.SPEC, torch.device(device))
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = functional.cross_entropy(model(pixel_values), torch.zeros(len(pixels), dtype=int, device=device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        loading, batch = _measure(make, lambda pixels: None, steps, device)
        fixed = [{"pixels": batch}] * (steps + WARM_UP)
        training, _ = _measure(lambda: fixed, train, steps, device)
        both, _ = _measure(make, train, steps, device)
    row = {"backbone": backbone, "num_workers": num_workers, "batch_size": BATCH_SIZE, "steps": steps}
    row |= {"loader": loading, "training": training, "together": both}
    return row | {"share": both / training}


def _write_video(index: int, path: Path) -> None:
    torch.set_num_threads(1)
    loader_benchmark.write_video(path, seed=index, keyframes=250)


def _measure(make: Any, consume: Any, steps: int, device: str) -> tuple[float, torch.Tensor]:
    """Clips per second after a warm-up, and the last batch."""
    batches = make()
    start = 0.0
    with closing(batches) if isinstance(batches, VideoLoader) else nullcontext():
        for step, batch in enumerate(islice(batches, WARM_UP + steps)):
            if step == WARM_UP:
                _wait(device)
                start = time.perf_counter()
            consume(batch["pixels"])
        _wait(device)
        seconds = time.perf_counter() - start
    return steps * BATCH_SIZE / seconds, batch["pixels"]


def train_motion(*, device: str, clips_per_class: int, epochs: int) -> dict[str, Any]:
    """Train by the recipe `motion` with the command line, and return its accuracy and time."""
    with tempfile.TemporaryDirectory() as folder:
        videos, run = Path(folder) / "videos", Path(folder) / "run"
        started = time.perf_counter()
        _xvit("data", "motion", "--output", videos, "--clips-per-class", clips_per_class, "--no-background")
        made = time.perf_counter()
        options = {"data.root": videos, "output": run, "train.epochs": epochs, "train.precision": "bf16"}
        options |= {"data.num_workers": min(os.cpu_count() or 2, 8)}
        _xvit("train", "--config", "motion", *(text for key, value in options.items() for text in (f"--{key}", value)))
        trained = time.perf_counter()
        metrics = json.loads(_xvit("eval", "--checkpoint", run / "best", "--data.root", videos, "--json"))
    return {
        "clips": 12 * clips_per_class,
        "epochs": epochs,
        "seconds_data": made - started,
        "seconds_training": trained - made,
        "top1": metrics["top1"],
        "videos": metrics["videos"],
    }


def _xvit(*args: object) -> str:
    command = [sys.executable, "-m", "xvit", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:5])} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()
