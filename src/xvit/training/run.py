"""The objects of one training run, and how they are built from a recipe."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from xvit.config import RunConfig, TrainConfig
from xvit.data.annotations import DatasetSplits, load_splits
from xvit.data.dataset import Item, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.models.backbone import resolve_clip_spec
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT
from xvit.training.logger import Progress, TrainingLogger
from xvit.training.optim import build_optimizer, build_schedule, scaled_lr
from xvit.training.recipe import check_recipe, resolve_model_config
from xvit.training.run_dir import RunDirectory, TrainState
from xvit.training.signals import StopSignals
from xvit.utils import distributed
from xvit.utils.errors import XViTError


@dataclass(kw_only=True, eq=False)
class TrainingRun:
    """The objects of one training run.

    Args:
        config: the recipe, with the number of classes of the data set.
        data: the data set.
        accelerator: device, precision and processes.
        raw_model: the model as it was built.
        model: the model as accelerate wraps it (DistributedDataParallel, torch.compile), for forward passes.
        ema_model: averages the weights of `raw_model`; None without train.ema_decay.
        optimizer: updates the weights of `raw_model`.
        schedule: sets the learning rate before each step.
        dataset: the training videos.
        sampler: their order in an epoch.
        loader: batches of `dataset` in that order.
        run_dir: the run folder.
        state: what has been done so far.
        logger: writes metrics and reports progress.
        signals: Ctrl-C and SIGTERM.
        last_saved: when the state was last saved, by time.monotonic().
    """

    config: RunConfig
    data: DatasetSplits
    accelerator: Accelerator
    raw_model: XViT
    model: nn.Module
    ema_model: ModelEmaV3 | None
    optimizer: Optimizer
    schedule: CosineLRScheduler
    dataset: VideoDataset
    sampler: EpochSampler
    loader: DataLoader[Item]
    run_dir: RunDirectory
    state: TrainState
    logger: TrainingLogger
    signals: StopSignals = field(default_factory=StopSignals)
    last_saved: float = field(default_factory=time.monotonic)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.loader)

    @property
    def eval_model(self) -> XViT:
        """The model that is validated and saved: the averaged one if there is one."""
        return self.raw_model if self.ema_model is None else self.ema_model.module

    def save_state(self) -> None:
        """Save everything that is needed to resume from here."""
        self.logger.share_bad_videos()
        self.state.seconds = self.logger.seconds
        self.run_dir.save_state(self.accelerator, self.ema_model, self.state)
        self.last_saved = time.monotonic()

    def close(self) -> None:
        """Finish the log files and release the model's memory."""
        self.logger.close()
        self.accelerator.free_memory()


def build_run(
    config: RunConfig, output: str | Path, *, resume: bool, on_progress: Callable[[Progress], None] | None
) -> TrainingRun:
    """Check a recipe, open the run folder, and build the run; or restore it from its last saved state.

    The arguments and errors are those of `xvit.training.fit`.
    """
    check_recipe(config)
    data = load_splits(config.data)
    model_config = resolve_model_config(config, data)
    train = config.train
    accelerator = _make_accelerator(train)
    run_dir = RunDirectory(output, config, resume=resume)
    config = replace(config, model=model_config)

    set_seed(train.seed)  # all processes start from the same weights
    raw_model = _build_model(config, data, accelerator, load_weights=not run_dir.has_state)
    ema_model = ModelEmaV3(raw_model, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None
    dataset, sampler, loader = _build_loader(config, data, raw_model, pin_memory=accelerator.device.type == "cuda")
    set_seed(train.seed, device_specific=True)  # from here on each process draws different random numbers
    model, optimizer = accelerator.prepare(raw_model, build_optimizer(raw_model, train))
    steps = len(loader)
    schedule = build_schedule(
        optimizer, steps=steps * train.epochs, warmup_steps=round(steps * train.warmup_epochs), lr=scaled_lr(train)
    )
    state = run_dir.load_state(accelerator, ema_model)
    logger = TrainingLogger(
        run_dir,
        samples=data.train,
        state=state,
        epochs=train.epochs,
        steps_per_epoch=steps,
        max_unreadable_fraction=config.data.max_unreadable_fraction,
        on_progress=on_progress,
    )
    return TrainingRun(
        config=config,
        data=data,
        accelerator=accelerator,
        raw_model=raw_model,
        model=model,
        ema_model=ema_model,
        optimizer=optimizer,
        schedule=schedule,
        dataset=dataset,
        sampler=sampler,
        loader=loader,
        run_dir=run_dir,
        state=state,
        logger=logger,
    )


def _build_model(config: RunConfig, data: DatasetSplits, accelerator: Accelerator, *, load_weights: bool) -> XViT:
    model = XViT(config.model)
    if config.init and load_weights:
        load_initial_weights(model, config.init)
    model.to(accelerator.device)
    model.clip_spec, model.class_names = resolve_clip_spec(config.clip, model.backbone), data.class_names
    model.set_grad_checkpointing(config.train.grad_checkpointing)
    model.backbone.requires_grad_(not config.train.freeze_backbone)
    return model


def _build_loader(
    config: RunConfig, data: DatasetSplits, model: XViT, *, pin_memory: bool
) -> tuple[VideoDataset, EpochSampler, DataLoader[Item]]:
    dataset = VideoDataset(
        samples=data.train,
        clip_spec=model.clip_spec,
        augment=config.augment,
        seed=config.train.seed,
        class_names=data.class_names,
        decode_timeout=config.data.decode_timeout,
    )
    sampler = EpochSampler(dataset, class_balanced=config.data.class_balanced, repeated_aug=config.augment.repeated_aug)
    loader = make_loader(
        dataset,
        batch_size=config.train.batch_size,
        num_workers=config.data.num_workers,
        sampler=sampler,
        pin_memory=pin_memory,
    )
    return dataset, sampler, loader


def _make_accelerator(config: TrainConfig) -> Accelerator:
    # accelerate keeps the first settings of a process; a second training in the same process may have others
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=distributed.uses_cpu(),
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            dynamo_backend="inductor" if config.compile else "no",
        )
    except ValueError as error:
        raise XViTError(f"train.precision={config.precision!r}: not supported on this device: {error}") from None
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would silently train in fp32
        raise XViTError("train.precision='fp16': not supported on a CPU; use fp32 or bf16")
    return accelerator
