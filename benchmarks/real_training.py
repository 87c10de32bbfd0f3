"""One training of `real.py`: a model on the real weights, one task, some of the weights trained, a seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from real_tasks import CONTROLS, IMAGE_SIZE, NUM_FRAMES, TASKS, Footage, test_batches, train_pairs
from real_weights import BACKBONE
from xvit import XViT, create_model
from xvit.config import TrainConfig
from xvit.data.transforms import normalize
from xvit.models.lora import add_lora, merge_lora
from xvit.training.optim import build_optimizer, build_schedule

BATCH_SIZE = 8
SCHEMES: dict[str, dict[str, Any]] = {
    "spatial": {"attention": "spatial"},
    "mixing, zero": {"attention": "mixing", "temporal_padding": "zero"},
    "mixing, replicate": {"attention": "mixing", "temporal_padding": "replicate"},
}
TUNE: dict[str, dict[str, Any]] = {  # what is trained, and how fast
    "head": {"lr": 1e-3},
    "lora": {"lr": 1e-3},
    "full": {"lr": 3e-4, "layer_decay": 0.75},
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    task: str
    scheme: str
    tune: str
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.task}-{self.scheme.replace(', ', '-')}-{self.tune}-{self.seed}"


def build_model(weights: Path, scheme: str, *, image_size: int = IMAGE_SIZE, **options: Any) -> XViT:
    """The image model with a scheme, and with a temporal head that knows the position of each frame.

    So the head of the spatial model, too, can tell in which order frames come.
    """
    return create_model(
        BACKBONE,
        num_classes=2,
        num_frames=NUM_FRAMES,
        checkpoint_path=weights,
        temporal_position="head",
        backbone_kwargs={"img_size": image_size},
        **SCHEMES[scheme],
        **options,
    )


def train(run: Run, weights: Path, footage: Sequence[Footage], steps: int) -> tuple[XViT, dict[str, Any]]:
    """Train and test one model.

    Returns:
        The model, and plain values: the run, the mean loss of the last quarter of the steps, and what was found on the
        test clips (see `predict`) and on the controls.
    """
    torch.manual_seed(run.seed)
    model = build_model(weights, run.scheme)
    if run.tune == "head":
        model.backbone.requires_grad_(False)
    elif run.tune == "lora":
        add_lora(model, rank=8)
    config = TrainConfig(batch_size=BATCH_SIZE, **TUNE[run.tune])
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, steps=steps, warmup_steps=steps // 10, lr=config.lr)
    pairs = train_pairs(footage, run.task, run.seed)
    labels = torch.arange(2).repeat(BATCH_SIZE // 2)
    losses = []
    for step in range(steps):
        clips = normalize(torch.cat(list(islice(pairs, BATCH_SIZE // 2))), model.clip_spec)
        schedule.step_update(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(clips).float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model = merge_lora(model).eval()
    last = losses[-max(steps // 4, 1) :]
    found = {name: predict(model, run.task, footage, frames) for name, frames in ({"": None} | CONTROLS).items()}
    result = asdict(run) | {"loss": sum(last) / len(last), "found": found.pop(""), "controls": found}
    return model, result


@torch.inference_mode()
def predict(model: XViT, task: str, footage: Sequence[Footage], frames: Sequence[int] | None = None) -> str:
    """For each test clip 1 if the model finds its class, else 0; `frames` replaces the clip's frames by these."""
    found: list[bool] = []
    for clips, labels in test_batches(footage, task, model.clip_spec):
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = model(clips if frames is None else clips[:, list(frames)])
        found += (logits.argmax(dim=-1) == labels).tolist()
    return "".join(str(int(value)) for value in found)


def all_runs(seeds: int) -> list[Run]:
    """All trainings, the cheap ones first."""
    return [
        Run(task=task, scheme=scheme, tune=tune, seed=seed)
        for tune in TUNE
        for seed in range(seeds)
        for task in TASKS
        for scheme in SCHEMES
    ]
