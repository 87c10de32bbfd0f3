"""The settings of training and of evaluation."""

from dataclasses import dataclass, field
from typing import Literal

from xvit.utils.errors import check_choices, check_range


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimizer, schedule and regularisation of one training.

    Args:
        epochs: passes over the training videos.
        batch_size: clips per step and process.
        optimizer: adamw, sgd (momentum 0.9), or muon (orthogonalised momentum for the matrices of the blocks, AdamW
            for the rest: fewer steps from scratch).
        lr: peak learning rate.
        lr_base_batch_size: clips per update that `lr` is meant for: the rate is scaled in proportion to the actual
            number; 0 to use `lr` unscaled.
        layer_decay: factor of the learning rate from each layer of the backbone to the one below; 1 for none.
        tune: what is trained: full (all weights), lora (low-rank updates of the attention projections, and what XViT
            adds to the image model; checkpoints hold merged weights), or head (temporal head and classifier: the frame
            vectors of at most 8 random views of each video are computed once, and the epochs use them in turn).
        lora_rank: rank of the updates of lora.
        grad_accum_steps: batches whose gradients are added up for one update.
        weight_decay: of weight matrices; biases, norms, tokens and positions have none.
        warmup_epochs: epochs of linear warm-up; a cosine to zero follows.
        clip_grad: largest gradient norm; 0 for no clipping.
        label_smoothing: fraction of the target spread over all classes.
        loss_weights: weight of each task's loss, such as {"verb": 1.0, "noun": 0.5}; 1 for tasks left out.
        ema_decay: decay per step of the averaged weights, which are evaluated and saved as best; 0 for none.
        eval_every: epochs between validations, after which the state and the checkpoint are saved; the last epoch is
            always validated.
        save_minutes: minutes between saved states in the meantime, from which a run can be resumed.
        precision: fp32, or bf16 or fp16 mixed precision.
        compile: torch.compile the model.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        sharding: none, or fsdp: weights, gradients and optimizer states are divided among the processes, for backbones
            that do not fit into the memory of one GPU.
        seed: of initial weights, order, sampling and augmentation.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    epochs: int = 30
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = 1e-3
    lr_base_batch_size: int = 0
    layer_decay: float = 1.0
    tune: Literal["full", "lora", "head"] = "full"
    lora_rank: int = 8
    grad_accum_steps: int = 1
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    clip_grad: float = 1.0
    label_smoothing: float = 0.0
    loss_weights: dict[str, float] = field(default_factory=dict)
    ema_decay: float = 0.0
    eval_every: int = 1
    save_minutes: float = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    grad_checkpointing: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_range("lr_base_batch_size", self.lr_base_batch_size, 0)
        check_range("layer_decay", self.layer_decay, 0, 1)
        for name in ("epochs", "batch_size", "eval_every", "grad_accum_steps", "lora_rank"):
            check_range(name, getattr(self, name), 1)
        for name in ("lr", "weight_decay", "warmup_epochs", "clip_grad", "save_minutes"):
            check_range(name, getattr(self, name), 0)
        check_range("label_smoothing", self.label_smoothing, 0, 1)
        for task, weight in self.loss_weights.items():
            check_range(f'loss_weights["{task}"]', weight, 0)
        check_range("ema_decay", self.ema_decay, 0, 1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Multi-view testing: the scores of all views of a video are averaged.

    Args:
        temporal_views: clips taken along the video.
        spatial_views: crops along the longer side of each clip: 1 (the centre) or 3.
        batch_size: videos at a time. All views of a batch are in memory at once.

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
