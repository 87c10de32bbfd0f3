"""The ways to fine-tune, cheapest first, what each is expected to take, and the choice among them.

head    temporal head and classifier, on frame vectors that are computed once
lora    low-rank updates of the attention as well
full    all weights
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from xvit.config import RunConfig
from xvit.evaluation import Evaluation
from xvit.models.xvit import XViT
from xvit.training import CrossValidation
from xvit.training.frame_cache import MAX_VIEWS
from xvit.utils.intervals import paired_interval

Way = Literal["head", "lora", "full"]
WAYS: tuple[Way, ...] = get_args(Way)
# Of the augmentation only crops and mirroring are left: so few updates learn little from distorted or mixed clips.
# Fewer trained weights take a higher rate. The best rate of a matrix falls with its width (Yang et al., 2022, arXiv
# 2203.03466), so those of the backbone are for a width of `_WIDTH`. They were chosen as docs/guides/finetune.md says.
_LR: dict[Way, float] = {"head": 3e-3, "lora": 1e-3, "full": 2.5e-4}
_WIDTH = 384  # of ViT-S
UPDATES = 240
_STEP_COST: dict[Way, float] = {"lora": 2.5, "full": 3.0}  # of a clip, in forward passes: the backward pass takes two


def way_recipe(recipe: RunConfig, way: Way, *, videos: int, width: int) -> RunConfig:
    """The recipe of a way: few videos need more epochs for enough updates, and a rate that suits the model.

    Args:
        recipe: what all ways share.
        way: its name.
        videos: their number.
        width: D of the backbone.
    """
    train = recipe.train
    epochs = max(train.epochs, -(-UPDATES // -(-videos // train.batch_size)))
    lr = _LR[way] if way == "head" else _LR[way] * _WIDTH / width
    layer_decay = train.layer_decay if way == "full" else 1.0
    augment = replace(recipe.augment, auto_augment="none", random_erasing=0.0, mixup=0.0, cutmix=0.0)
    return replace(
        recipe,
        augment=augment,
        train=replace(
            train,
            tune=way,
            optimizer="adamw",
            lr=lr,
            lr_base_batch_size=0,
            layer_decay=layer_decay,
            epochs=epochs,
            eval_every=epochs,
            warmup_epochs=train.warmup_epochs * epochs / train.epochs,
        ),
    )


@torch.inference_mode()
def time_clip(model: XViT) -> float:
    """Seconds for the frame vectors of one clip: the shorter of two passes."""
    size = model.clip_spec.image_size
    clip = torch.zeros(1, model.clip_spec.num_frames, model.in_chans, size, size, device=model.device)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        model.eval().embed_frames(clip).cpu()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def expected_seconds(recipe: RunConfig, *, videos: int, folds: int, clip_seconds: float) -> float:
    """What the cross-validation with the recipe of a way and the training on all videos take.

    Args:
        recipe: of the way.
        videos: their number.
        folds: their number.
        clip_seconds: time of one clip.
    """
    epochs, way = recipe.train.epochs, recipe.train.tune
    if way == "head":
        passes = videos * (min(epochs, MAX_VIEWS) + 1.0)  # and one fixed view
    else:
        passes = videos * (folds * epochs * _STEP_COST[way] + 1)  # folds - 1 of the folds each, and the final training
    return passes * clip_seconds


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many more videos another way classified correctly: a share, and its 95 % interval."""

    difference: float
    low: float
    high: float


def choose_way(results: Mapping[Way, CrossValidation]) -> tuple[Way, dict[Way, Comparison]]:
    """The cheapest way that is not clearly worse than the most accurate one.

    It is clearly worse if the 95 % interval of the difference on the same videos is above 0.

    Returns:
        The way, and how much better the most accurate one is than each.
    """
    correct = {way: _correct(validation) for way, validation in results.items()}
    best = max(results, key=lambda way: sum(correct[way].values()))  # of equal ones the cheapest
    comparisons = {}
    for way, hits in correct.items():
        pairs = [(correct[best][id], hit) for id, hit in hits.items() if id in correct[best]]
        comparisons[way] = Comparison(
            difference=sum(a - b for a, b in pairs) / len(pairs),
            **dict(zip(("low", "high"), paired_interval(pairs), strict=True)),
        )
    return next(way for way in WAYS if way in results and comparisons[way].low <= 0), comparisons


def _correct(validation: CrossValidation) -> dict[str, bool]:
    assert isinstance(validation.result, Evaluation)
    return {sample.id: sample.prediction == sample.ground_truth for sample in validation.result.samples}
