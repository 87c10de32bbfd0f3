"""One training run: the checks of its recipe, and the objects built from it."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3

from xvit.config import ModelConfig, RunConfig, TrainConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations import DatasetSplits, load_splits
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import VideoLoader, make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.seen import fingerprint_splits
from xvit.data.statistics import learn_sampling
from xvit.data.transforms import normalize
from xvit.models.backbone import resolve_clip_spec
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT
from xvit.training.frame_cache import FrameCache, FrameLoader, FrameReader
from xvit.training.logger import Progress, TrainingLogger
from xvit.training.optim import build_optimizer, build_schedule, scaled_lr
from xvit.training.run_dir import RunDirectory
from xvit.training.sharding import check_sharding, copy_weights, shard
from xvit.training.signals import StopSignals
from xvit.training.state_tensors import StateTensors
from xvit.training.tuning import AveragedWeights, HeadOnly, check_tuning, freeze
from xvit.utils import distributed
from xvit.utils.errors import XViTError, check_choice, one_line
from xvit.utils.threads import limit_threads


def check_recipe(config: RunConfig) -> None:
    """Check that the settings go together, without data or weights: run the model on PyTorch's meta device.

    Raises:
        XViTError: settings that do not go together.
    """
    model, clip = config.model, config.clip
    if model.num_frames != clip.num_frames:
        raise XViTError(
            f"model.num_frames={model.num_frames} and clip.num_frames={clip.num_frames}: must be equal; set both"
        )
    with torch.device("meta"):
        meta_model = XViT(model).eval()
        clip = resolve_clip_spec(clip, meta_model.backbone)
        pixel_values = torch.empty(1, clip.num_frames, 3, clip.image_size, clip.image_size)
    try:
        meta_model(pixel_values)
    except (XViTError, RuntimeError, AssertionError) as error:
        message = f"backbone {model.backbone} does not accept frames of this size: {one_line(error, length=1000)}"
        raise XViTError(f"clip.image_size={clip.image_size}: {message}") from None


class TrainingRun:
    """The objects of one training run, built from a recipe or restored from its last saved state.

    The arguments and errors are those of `xvit.training.fit`.

    Attributes:
        config: the recipe, with the number of classes of the data set.
        raw_model: the model as it was built.
        model: the model as accelerate wraps it (DistributedDataParallel, torch.compile), for forward passes; with
            train.sharding `raw_model` itself.
        ema_model: averages the weights of `raw_model`; None without train.ema_decay.
        frames: with train.tune=head, the frame vectors that the head is trained on; else None.
        frame_reader: computes them.
        state: what has been done so far.
        last_saved: when the state was last saved, by time.monotonic().
    """

    def __init__(
        self,
        config: RunConfig,
        output: str | Path,
        *,
        resume: bool,
        on_progress: Callable[[Progress], None] | None,
        data: DatasetSplits | None = None,
        frames: FrameCache | None = None,
    ) -> None:
        check_recipe(config)
        check_sharding(config.train)
        check_tuning(config)
        self.data = load_splits(config.data) if data is None else data
        if not self.data.val and data is None:
            advice = "data.val_fraction or add a val folder" if config.data.format == "folders" else "data.val"
            raise XViTError(f"{config.data.root}: no validation videos; set {advice}")
        self.config = replace(config, model=_resolve_model_config(config, self.data))
        self.accelerator = _make_accelerator(config.train)
        self.run_dir = RunDirectory(output, config, self.data, resume=resume)
        self.frames: FrameCache | None = None
        if config.train.tune == "head":
            self.frames = frames or FrameCache(self.run_dir.path / "frames", train=self.data.train, val=self.data.val)
        try:
            self._build(on_progress)
        except BaseException:
            self.run_dir.close()
            raise

    def _build(self, on_progress: Callable[[Progress], None] | None) -> None:
        train = self.config.train
        set_seed(train.seed)  # all processes start from the same weights
        self.raw_model = self._build_model()
        self.frame_reader = FrameReader(
            model=self.raw_model,
            config=self.config,
            class_names=self.data.class_names,
            autocast=self.accelerator.autocast,
            on_batch=self._on_frames,
        )
        average = AveragedWeights if train.tune != "full" else ModelEmaV3
        self.ema_model = average(self.raw_model, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None
        self.dataset, self.sampler, self.loader = self._build_loader()
        set_seed(train.seed, device_specific=True)  # from here on each process draws different random numbers
        self._prepare_model()
        self.steps_per_epoch = steps = len(self.loader)
        warmup_steps = round(steps * train.warmup_epochs)
        self.schedule = build_schedule(
            self.optimizer, steps=steps * train.epochs, warmup_steps=warmup_steps, lr=scaled_lr(train)
        )
        self.state = self.run_dir.load_state(self.state_tensors)
        self.run_dir.prepare(self.raw_model.clip_spec)
        self.logger = TrainingLogger(self.run_dir, self.config, self.data.train, self.state, steps, on_progress)
        self.signals = StopSignals()
        self.last_saved = time.monotonic()
        self._start_time = self.last_saved - self.state.seconds  # including the time before the run was resumed

    def model_inputs(self, batch: Batch) -> torch.Tensor:
        """What `model` takes, on the device: normalised clips (B, T, C, H, W), or frame vectors (B, T, D)."""
        # Batches from workers are contiguous, those of this process not always, which would change the last bits.
        pixels = batch["pixels"].contiguous()
        if self.frames is not None:
            return pixels.to(self.accelerator.device)
        return normalize(pixels, self.raw_model.clip_spec, self.accelerator.device)

    def _on_frames(self, done: int, total: int) -> None:
        self.run_dir.open()  # the files are written into it
        self.logger.report_progress("frames", done, total)
        self.signals.check()

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """By which `xvit.data.seen.count_seen` recognises the training and validation videos."""
        return fingerprint_splits(self.data)

    @property
    def eval_model(self) -> XViT:
        """The model that is validated and saved: the averaged one if there is one.

        With train.sharding it is a whole copy, with the weights of the last `gather_eval_weights`.
        """
        return self._averaged_or_raw if self._whole_model is None else self._whole_model

    def gather_eval_weights(self) -> None:
        """With train.sharding, copy the weights into `eval_model`, which until `free_eval_weights` is on the device."""
        if self._whole_model is not None:
            copy_weights(self._averaged_or_raw, self._whole_model.to(self.accelerator.device))

    def free_eval_weights(self) -> None:
        """With train.sharding, take `eval_model` from the device, for the training."""
        if self._whole_model is not None:
            self._whole_model.cpu()

    def save_state(self) -> None:
        """Save everything that is needed to resume from here."""
        self.logger.share_bad_videos()
        self.state.seconds = time.monotonic() - self._start_time
        self.run_dir.save_state(self.state_tensors, self.state)
        self.last_saved = time.monotonic()

    def close(self) -> None:
        """End the loader's workers, and release the run folder and the model's memory."""
        self.loader.close()
        self.run_dir.close()
        self.accelerator.free_memory()

    @property
    def _averaged_or_raw(self) -> XViT:
        return self.raw_model if self.ema_model is None else self.ema_model.module

    @property
    def state_tensors(self) -> StateTensors:
        """What a saved state holds the tensors of."""
        return StateTensors(
            accelerator=self.accelerator,
            model=self.raw_model,
            optimizer=self.optimizer,
            ema_model=self.ema_model,
            sharded=self._whole_model is not None,
        )

    def _prepare_model(self) -> None:
        """Shard the model or have accelerate wrap it, and build the optimizer."""
        train = self.config.train
        self._whole_model: XViT | None = None
        if train.sharding == "none":
            module = self.raw_model if self.frames is None else HeadOnly(self.raw_model)
            self.model, self.optimizer = self.accelerator.prepare(module, build_optimizer(self.raw_model, train))
            return
        self._whole_model = deepcopy(self.raw_model).cpu()
        shard(self.raw_model)
        if self.ema_model is not None:
            shard(self.ema_model.module)
        self.model, self.optimizer = self.raw_model, build_optimizer(self.raw_model, train)

    def _build_model(self) -> XViT:
        config, model = self.config, XViT(self.config.model)
        limit_threads(model.approximate_macs)
        if config.init and not self.run_dir.saved_states():
            load_initial_weights(model, config.init, self.data.class_names)
        model.to(self.accelerator.device)
        clip_spec = self.run_dir.clip_spec or learn_sampling(
            config.clip, self.data.train, timeout=config.data.decode_timeout, num_workers=config.data.num_workers
        )
        clip_spec = distributed.all_gather(clip_spec)[0]  # a video may time out in one process only
        model.clip_spec, model.class_names = resolve_clip_spec(clip_spec, model.backbone), self.data.class_names
        model.set_grad_checkpointing(config.train.grad_checkpointing)
        freeze(model, config)
        return model

    def _build_loader(self) -> tuple[VideoDataset, EpochSampler, VideoLoader | FrameLoader]:
        data, augment, train = self.config.data, self.config.augment, self.config.train
        dataset = VideoDataset(
            samples=self.data.train,
            clip_spec=self.raw_model.clip_spec,
            augment=augment,
            seed=train.seed,
            class_names=self.data.class_names,
            decode_timeout=data.decode_timeout,
        )
        options = {"repeated_aug": augment.repeated_aug, "batch_size": train.batch_size}
        sampler = EpochSampler(dataset, class_balanced=data.class_balanced, **options)
        if self.frames is not None:
            return dataset, sampler, FrameLoader(self.frames, self.frame_reader, sampler, batch_size=train.batch_size)
        on_cuda = self.accelerator.device.type == "cuda"
        loader = make_loader(
            dataset, sampler=sampler, batch_size=train.batch_size, num_workers=data.num_workers, pin_memory=on_cuda
        )
        return dataset, sampler, loader


def _resolve_model_config(config: RunConfig, data: DatasetSplits) -> ModelConfig:
    """The recipe's model config, with the number of classes of the data set. Checks that the recipe and it match."""
    class_names, root = as_task_dict(data.class_names), config.data.root
    num_classes = unwrap_single_task({task: len(names) for task, names in class_names.items()})
    if config.model.num_classes not in (0, num_classes):
        message = f"model.num_classes={config.model.num_classes}, but {root} has {num_classes} classes"
        raise XViTError(f"{message}; leave it at 0 to use the number of the data set")
    for task in config.train.loss_weights:
        check_choice("train.loss_weights: task", task, class_names)
    if not data.train:
        raise XViTError(f"{root}: no training videos")
    return replace(config.model, num_classes=num_classes, multi_label=config.data.multi_label)


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
