"""Helpers for the tests of training: weights, metric rows, stops, the expected learning rate, a run of no steps."""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from xvit.config import RunConfig
from xvit.data.annotations import load_splits
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT


def weights(directory) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(output, stage: str) -> list[dict]:
    all_rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row for row in all_rows if row["stage"] == stage]


def stop_at(epoch: int, step: int):
    """An `on_progress` callback that raises KeyboardInterrupt after that step."""

    def on_progress(event):
        if event.stage == "train" and (event.epoch, event.step) == (epoch, step):
            raise KeyboardInterrupt

    return on_progress


def naive_rate(step: int, steps: int, warmup: int, lr: float) -> float:
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def fit_no_steps(config: RunConfig, output: Path, **options) -> None:
    """In place of `fit`, where only the files of trainings matter: saves the initial weights."""
    class_names = load_splits(config.data).class_names
    torch.manual_seed(config.train.seed)
    model = XViT(replace(config.model, num_classes=len(class_names)))
    model.clip_spec, model.class_names = resolve_clip_spec(config.clip, model.backbone), class_names
    for name in ("best", "last"):
        model.save_pretrained(output / name)
    (output / "state").mkdir()
