"""The training of the ablation study against a loop in plain PyTorch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from xvit.config import model_config
from xvit.experiments.ablation.clips import write_clips
from xvit.experiments.ablation.run import build_model
from xvit.experiments.ablation.train import Clips, predict, train_model
from xvit.models.xvit import XViT

LR, DECAY, SEED = 2e-3, 0.75, 3
DEPTH = 2


def small_model(num_classes) -> XViT:
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": DEPTH, "num_heads": 2, "img_size": 16, "patch_size": 8}
    options = {"backbone": "vit_tiny_patch16_224", "num_frames": 2, "num_classes": num_classes}
    return XViT(model_config(**options, backbone_kwargs=sizes))


def random_clips(count: int, **num_classes: int) -> Clips:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(count, 2, 3, 16, 16), dtype=np.uint8)
    return Clips(pixels, {task: torch.from_numpy(rng.integers(0, n, size=count)) for task, n in num_classes.items()})


def naive_pixels(clips: Clips, rows, model: XViT) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.clip_spec.mean, model.clip_spec.std))
    return (torch.from_numpy(clips.pixels)[rows] / 255 - mean) / std


def layers_above(name: str) -> int:
    """0 for what is not the image model, 1 for its last layer, and so on; the embedding is below the first layer."""
    if name.startswith("backbone.blocks."):
        return DEPTH - int(name.split(".")[2])
    return DEPTH + 1 if name.startswith(("backbone.patch_embed", "backbone.pos_embed", "backbone.cls_token")) else 0


def naive_training(model: XViT, clips: Clips, epochs: int) -> None:
    """AdamW with decay for matrices only, batches of 32, warm-up for a tenth of the steps, then a cosine to zero."""
    matrices = {module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    groups = [
        {"params": [p], "weight_decay": 0.05 if p in matrices else 0.0, "share": DECAY ** layers_above(name)}
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(SEED)
    count = len(clips.pixels)
    per_epoch = count // 32
    steps, step = epochs * per_epoch, 0
    warmup = round(steps / 10)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, 32 * per_epoch, 32):
            rows = order[start : start + 32]
            if step < warmup:
                rate = LR * (step + 1) / (warmup + 1)
            else:
                rate = LR * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            logits = model(naive_pixels(clips, rows, model))
            tasks = logits if isinstance(logits, dict) else {"label": logits}
            losses = [nn.functional.cross_entropy(tasks[task], clips.labels[task][rows]) for task in tasks]
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            step += 1


@pytest.mark.parametrize("num_classes", [{"label": 3}, {"disc": 3, "square": 2}])
def test_training_equals_a_plain_loop(num_classes):
    """Seventy clips are two batches an epoch; the last six clips of each order are left out."""
    clips = random_clips(70, **num_classes)
    models = [small_model(num_classes if len(num_classes) > 1 else 3) for _ in range(2)]
    start = {name: tensor.clone() for name, tensor in models[0].state_dict().items()}
    train_model(models[0], clips, lr=LR, epochs=5, layer_decay=DECAY, warmup=0.1, seed=SEED)
    naive_training(models[1], clips, epochs=5)
    assert not models[0].training
    states = [model.state_dict() for model in models]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=2e-5), name
    assert max((tensor - start[name]).abs().max() for name, tensor in states[0].items()) > 1e-3


def test_predictions_are_those_of_single_clips():
    """In the order of the clips, whatever the size of the last batch."""
    clips, model = random_clips(101, label=3), small_model(3).eval()
    with torch.no_grad():
        single = [model(naive_pixels(clips, slice(row, row + 1), model))[0] for row in range(101)]
    assert torch.allclose(predict(model, clips), torch.stack(single), atol=1e-5)


def test_the_clips_of_the_study_are_normalised(tmp_path):
    """Values near 0 with a spread near 1, as an image model expects."""
    write_clips(tmp_path / "clips", {"train": 48, "images": 48}, lambda done, total: None)
    model = build_model({}, 12, seed=0)
    for split, tasks in (("train", ("label",)), ("images", ("disc", "square", "triangle", "bar", "cross"))):
        pixel_values, _ = Clips.load(tmp_path / "clips", split, tasks).batch(model, torch.arange(48))
        assert abs(pixel_values.mean()) < 0.4
        assert 0.6 < pixel_values.std() < 1.4
