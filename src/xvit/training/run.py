"""The objects of one training run, and how they are built from a recipe."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader

from xvit.config import RunConfig, TrainConfig
from xvit.data.annotations import load_splits
from xvit.data.dataset import Item, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.models.backbone import resolve_clip_spec
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT
from xvit.training.logger import Progress, TrainingLogger
from xvit.training.optim import build_optimizer, build_schedule, scaled_lr
from xvit.training.recipe import check_recipe, resolve_model_config
from xvit.training.run_dir import RunDirectory
from xvit.training.signals import StopSignals
from xvit.utils import distributed
from xvit.utils.errors import XViTError


class TrainingRun:
    """The objects of one training run, built from a recipe or restored from its last saved state.

    The arguments and errors are those of `xvit.training.fit`.

    Attributes:
        config: the recipe, with the number of classes of the data set.
        raw_model: the model as it was built.
        model: the model as accelerate wraps it (DistributedDataParallel, torch.compile), for forward passes.
        ema_model: averages the weights of `raw_model`; None without train.ema_decay.
        state: what has been done so far.
        last_saved: when the state was last saved, by time.monotonic().
    """

    def __init__(
        self, config: RunConfig, output: str | Path, *, resume: bool, on_progress: Callable[[Progress], None] | None
    ) -> None:
        check_recipe(config)
        self.data = load_splits(config.data)
        train = config.train
        self.config = replace(config, model=resolve_model_config(config, self.data))
        self.accelerator = _make_accelerator(train)
        self.run_dir = RunDirectory(output, config, resume=resume)

        set_seed(train.seed)  # all processes start from the same weights
        self.raw_model = self._build_model()
        self.ema_model = ModelEmaV3(self.raw_model, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None
        self.dataset, self.sampler, self.loader = self._build_loader()
        set_seed(train.seed, device_specific=True)  # from here on each process draws different random numbers
        self.model, self.optimizer = self.accelerator.prepare(self.raw_model, build_optimizer(self.raw_model, train))
        self.steps_per_epoch = len(self.loader)
        self.schedule = build_schedule(
            self.optimizer,
            steps=self.steps_per_epoch * train.epochs,
            warmup_steps=round(self.steps_per_epoch * train.warmup_epochs),
            lr=scaled_lr(train),
        )
        self.state = self.run_dir.load_state(self.accelerator, self.ema_model)
        self.logger = TrainingLogger(
            self.run_dir,
            samples=self.data.train,
            state=self.state,
            epochs=train.epochs,
            steps_per_epoch=self.steps_per_epoch,
            max_unreadable_fraction=config.data.max_unreadable_fraction,
            on_progress=on_progress,
        )
        self.signals = StopSignals()
        self.last_saved = time.monotonic()

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

    def _build_model(self) -> XViT:
        config, model = self.config, XViT(self.config.model)
        if config.init and not self.run_dir.has_state:
            load_initial_weights(model, config.init)
        model.to(self.accelerator.device)
        model.clip_spec, model.class_names = resolve_clip_spec(config.clip, model.backbone), self.data.class_names
        model.set_grad_checkpointing(config.train.grad_checkpointing)
        model.backbone.requires_grad_(not config.train.freeze_backbone)
        return model

    def _build_loader(self) -> tuple[VideoDataset, EpochSampler, DataLoader[Item]]:
        data, augment = self.config.data, self.config.augment
        dataset = VideoDataset(
            samples=self.data.train,
            clip_spec=self.raw_model.clip_spec,
            augment=augment,
            seed=self.config.train.seed,
            class_names=self.data.class_names,
            decode_timeout=data.decode_timeout,
        )
        sampler = EpochSampler(dataset, class_balanced=data.class_balanced, repeated_aug=augment.repeated_aug)
        loader = make_loader(
            dataset,
            batch_size=self.config.train.batch_size,
            num_workers=data.num_workers,
            sampler=sampler,
            pin_memory=self.accelerator.device.type == "cuda",
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
