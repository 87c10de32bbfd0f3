"""One training of `real.py`: a model on the real weights, one task, some of the weights trained, a seed."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
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

BATCH_SIZE = 8  # clips
TRAIN_WINDOWS, HEAD_STEPS, HEAD_BATCH_SIZE = 600, 300, 32  # of the frozen image model
SCHEMES: dict[str, dict[str, Any]] = {
    "spatial": {"attention": "spatial"},
    "mixing, zero": {"attention": "mixing", "temporal_padding": "zero"},
    "mixing, replicate": {"attention": "mixing", "temporal_padding": "replicate"},
}
TUNE: dict[str, dict[str, Any]] = {  # what is trained, and how fast
    "head": {"lr": 1e-3},
    "lora": {"lr": 3e-4},
    "full": {"lr": 1e-4, "layer_decay": 0.65},
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    task: str
    scheme: str
    tune: str
    seed: int
    windows: int = TRAIN_WINDOWS  # on which the head is trained
    share: float = 1.0  # of the footage for training
    tested: str = "later"

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.vectors_name}-{self.tune}-{self.seed}"

    @property
    def head_steps(self) -> int:
        """Steps in which each window is used as often, whatever their number."""
        return HEAD_STEPS * self.windows // TRAIN_WINDOWS

    @property
    def vectors_name(self) -> str:
        """For the frame vectors, which all seeds and ways to train share."""
        windows = "" if self.windows == TRAIN_WINDOWS else f"-{self.windows}"
        share = "" if self.share == 1 else f"-{self.share:g}"
        tested = "" if self.tested == "later" else f"-{self.tested}"
        return f"{self.task}-{self.scheme.replace(', ', '-')}{windows}{share}{tested}"


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


def frame_vectors(model: XViT, run: Run, footage: Sequence[Footage]) -> dict[str, Tensor]:
    """Frame vectors (clips, T, D) of the frozen image model: of training clips, and of the test clips and controls."""
    pairs = islice(train_pairs(footage, run.task, seed=0, share=run.share), run.windows)
    training = (torch.cat(batch) for batch in iter(lambda: list(islice(pairs, BATCH_SIZE // 2)), []))
    found = {"train": _embed(model, (normalize(clips, model.clip_spec) for clips in training))}
    for name, frames in ({"test": range(NUM_FRAMES)} | CONTROLS).items():
        clips = (clips[:, list(frames)] for clips, _ in test_batches(footage, run.task, model.clip_spec))
        found[name] = _embed(model, clips)
    return found


@torch.inference_mode()
def _embed(model: XViT, batches: Iterable[Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([model.embed_frames(clips).float() for clips in batches])


def train(
    run: Run, weights: Path, footage: Sequence[Footage], vectors: dict[str, Tensor], steps: int
) -> tuple[XViT, dict[str, Any]]:
    """Train and test one model: its head on the frame vectors, then, for lora and full, `steps` steps on clips.

    A head that is trained first gives the image model useful gradients from the first step on (linear probing, then
    fine-tuning: Kumar et al., ICLR 2022).

    Returns:
        The model, and plain values: the run, the mean loss of the last tenth of the steps, and what was found on the
        test clips (see `predict`) and on the controls.
    """
    torch.manual_seed(run.seed)
    model = build_model(weights, run.scheme)
    rng, train_vectors = np.random.default_rng(run.seed), vectors["train"].unflatten(0, (-1, 2))

    def draw_vectors() -> Tensor:
        chosen = rng.choice(len(train_vectors), HEAD_BATCH_SIZE // 2, replace=False)
        return model.classify_frames(train_vectors[torch.from_numpy(chosen)].flatten(0, 1))

    pairs = train_pairs(footage, run.task, run.seed, run.share)

    def draw_clips() -> Tensor:
        clips = torch.cat(list(islice(pairs, BATCH_SIZE // 2)))
        return model(normalize(clips, model.clip_spec))

    model.backbone.requires_grad_(False)
    loss = optimize(model, draw_vectors, TrainConfig(**TUNE["head"]), run.head_steps)
    if run.tune != "head":
        model.backbone.requires_grad_(True)
        if run.tune == "lora":
            add_lora(model, rank=8)
        loss = optimize(model, draw_clips, TrainConfig(**TUNE[run.tune]), steps)
    model = merge_lora(model).eval()
    if run.tune == "head":
        with torch.inference_mode():
            found = {name: _found(model.classify_frames(x)) for name, x in vectors.items() if name != "train"}
    else:
        found = {name: predict(model, run.task, footage, frames) for name, frames in _inputs(run).items()}
    return model, asdict(run) | {"loss": loss, "found": found.pop("test"), "controls": found}


def optimize(model: XViT, draw_logits: Callable[[], Tensor], config: TrainConfig, steps: int) -> float:
    """Train what is not frozen on batches of pairs of both classes, and return the mean loss of the last tenth."""
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, steps=steps, warmup_steps=steps // 10, lr=config.lr)
    losses = []
    for step in range(steps):
        schedule.step_update(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = draw_logits().float()
        loss = F.cross_entropy(logits, torch.arange(len(logits)) % 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return statistics.mean(losses[-max(steps // 10, 1) :])


@torch.inference_mode()
def predict(model: XViT, task: str, footage: Sequence[Footage], frames: Sequence[int]) -> str:
    """For each test clip 1 if the model finds its class, else 0; the model is given these frames of it."""
    found = []
    for clips, _ in test_batches(footage, task, model.clip_spec):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(_found(model(clips[:, list(frames)])))
    return "".join(found)


def _found(logits: Tensor) -> str:
    """Of pairs of both classes, (2 N, classes)."""
    return "".join(str(int(int(row.argmax()) == index % 2)) for index, row in enumerate(logits))


def _inputs(run: Run) -> dict[str, Sequence[int]]:
    """The frames of the test clips, and those of the controls, which are left out for all seeds but one."""
    return {"test": range(NUM_FRAMES)} | (CONTROLS if run.seed == 0 else {})


def all_runs(seeds: int, tunes: Sequence[str]) -> list[Run]:
    """All trainings, the cheap ones first."""
    return [
        Run(task=task, scheme=scheme, tune=tune, seed=seed)
        for tune in tunes
        for seed in range(seeds)
        for task in TASKS
        for scheme in SCHEMES
    ]
