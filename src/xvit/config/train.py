"""The settings of training and evaluation."""

from dataclasses import dataclass, field
from typing import Literal

from xvit.utils.errors import check_choice, check_range


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: optimiser, schedule, regularisation.

    Args:
        epochs: passes over the training videos.
        batch_size: clips a step and process.
        optimizer: adamw, sgd (momentum 0.9), or muon (orthogonalised momentum for the matrices of the blocks, AdamW
            for the rest: fewer steps from scratch).
        lr: peak learning rate.
        lr_batch: clips an update that `lr` is meant for: with more or fewer it is scaled in proportion; 0 to take it as
            it is.
        layer_decay: factor of the learning rate from each of the backbone's layers to the one before it; 1 for none.
        freeze_backbone: train what comes after the image model alone.
        accumulate: batches whose gradients make one update.
        weight_decay: on matrices only; biases, norms, tokens and positions are exempt.
        warmup_epochs: epochs of linear warm-up; a cosine to zero follows.
        clip_grad: largest gradient norm; 0 for no clipping.
        label_smoothing: share of the target spread over all classes.
        loss_weights: weight of each task's loss, such as {"verb": 1.0, "noun": 0.5}; 1 for those left out.
        mixup: alpha of mixup, which blends the clips of a batch in pairs, their labels alike; 0 for none.
        cutmix: alpha of cutmix, which puts a box of one clip into another; 0 for none. With mixup too, each batch gets
            one of the two, by chance.
        ema_decay: decay a step of the averaged weights that are evaluated and saved as best; 0 for none.
        eval_every: epochs between validations; the last epoch is always validated.
        save_minutes: minutes between saves within an epoch of all that is needed to go on; each epoch's end is saved
            too.
        precision: no (fp32), bf16 or fp16 mixed precision.
        compile: torch.compile the model.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        seed: of initial weights, order, sampling and augmentation.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    epochs: int = 30
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = 1e-3
    lr_batch: int = 0
    layer_decay: float = 1.0
    freeze_backbone: bool = False
    accumulate: int = 1
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    clip_grad: float = 1.0
    label_smoothing: float = 0.0
    loss_weights: dict[str, float] = field(default_factory=dict)
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    eval_every: int = 1
    save_minutes: float = 10.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    grad_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("adamw", "sgd", "muon"))
        check_choice("precision", self.precision, ("no", "bf16", "fp16"))
        check_range("lr_batch", self.lr_batch, 0)
        check_range("layer_decay", self.layer_decay, 0, 1)
        for name in ("epochs", "batch_size", "eval_every", "accumulate"):
            check_range(name, getattr(self, name), 1)
        for name in ("lr", "weight_decay", "warmup_epochs", "clip_grad", "save_minutes"):
            check_range(name, getattr(self, name), 0)
        check_range("label_smoothing", self.label_smoothing, 0, 1)
        for task, weight in self.loss_weights.items():
            check_range(f'loss_weights["{task}"]', weight, 0)
        for name in ("mixup", "cutmix"):
            check_range(name, getattr(self, name), 0)
        check_range("ema_decay", self.ema_decay, 0, 1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Testing with several views a video, their scores averaged.

    Args:
        temporal_views: clips taken along the video.
        spatial_views: crops along the longer side of each: 1 (the centre) or 3.
        batch_size: videos at a time; so many, with all their views, are in memory for each batch that is being read.

    Raises:
        XViTError: a value out of its range.
    """

    temporal_views: int = 1
    spatial_views: int = 1
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_range("temporal_views", self.temporal_views, 1)
        check_range("spatial_views", self.spatial_views, 1)
        check_range("batch_size", self.batch_size, 1)
