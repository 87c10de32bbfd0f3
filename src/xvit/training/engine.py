"""Training: one loop, visible, in `fit`."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device, set_seed
from timm.utils import ModelEmaV3
from torch import Tensor

from xvit.config import SINGLE_TASK, EvalConfig, ModelConfig, RunConfig, as_task_dict, to_dict
from xvit.data.annotations.formats import DatasetSplits, load_splits
from xvit.data.annotations.samples import class_indices
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.transforms import normalize
from xvit.evaluation import Evaluation, MultiLabelEvaluation, evaluate
from xvit.inference.predictor import Predictor
from xvit.models.backbone import resolve_clip_spec
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT
from xvit.training.logger import Progress, TrainingLog
from xvit.training.mixup import mix_batch
from xvit.training.optim import build_optimizer, build_schedule, scaled_lr
from xvit.training.run_dir import RunDirectory
from xvit.training.signals import StopSignals
from xvit.utils import distributed
from xvit.utils.errors import Interrupted, XViTError
from xvit.utils.version import __version__

__all__ = ["FitResult", "Progress", "check_recipe", "classification_loss", "fit"]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A finished training.

    Args:
        best: the checkpoint with the highest validation top-1, or mean average precision.
        last: the checkpoint after the last epoch.
        metrics: best's on the validation videos: top1, top5, val_loss; of a multi-label model map, val_loss.
        epoch: best's, from 1.
        seconds: wall time, with that before a resumption.
        bad_videos: different videos that could not be read; bad_videos.jsonl names them.
    """

    best: Path
    last: Path
    metrics: dict[str, float]
    epoch: int
    seconds: float
    bad_videos: int


def fit(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train a model by a recipe.

    On the CPU, a run that was stopped and resumed ends with the same weights, bit for bit, as one that was not. Started
    in several processes (torchrun, accelerate launch), each trains on its share of a step's clips; the first one
    writes.

    Args:
        config: the recipe. With num_classes 0 the model gets the data set's classes.
        output: folder of the run; see `xvit.training.run_dir` for what is written there.
        resume: go on with the run in `output`, from the last step that it saved, if there is one.
        on_progress: called after every step and every batch of a validation.

    Raises:
        XViTError: settings that do not go together, a folder in use, data that cannot be used, a loss that is not
            finite, an epoch without one video that could be read.
        Interrupted: after Ctrl-C or SIGTERM: the step under way was finished and all is saved; its text says how to go on.
    """
    check_recipe(config)
    train = config.train
    data = load_splits(config.data)
    model_config = _with_classes(config, data)
    accelerator = _accelerator(config)
    folder = RunDirectory(output, config, resume=resume)
    config = replace(config, model=model_config)

    set_seed(train.seed)
    plain = XViT(config.model)
    if config.init and not folder.has_state:
        load_initial_weights(plain, config.init)
    plain.to(accelerator.device)
    plain.clip_spec, plain.class_names = resolve_clip_spec(config.clip, plain.backbone), data.class_names
    plain.set_grad_checkpointing(train.grad_checkpointing)
    plain.backbone.requires_grad_(not train.freeze_backbone)
    ema = ModelEmaV3(plain, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None
    dataset = VideoDataset(
        samples=data.train,
        clip_spec=plain.clip_spec,
        augment=config.augment,
        seed=train.seed,
        class_names=data.class_names,
    )
    order = EpochSampler(dataset, class_balanced=config.data.class_balanced, repeated_aug=config.augment.repeated_aug)
    loader = make_loader(
        dataset,
        batch_size=train.batch_size,
        num_workers=config.data.num_workers,
        sampler=order,
        pin_memory=accelerator.device.type == "cuda",
    )
    set_seed(train.seed, device_specific=True)  # the weights are the same in all processes, what is drawn now is not
    model, optimizer = accelerator.prepare(plain, build_optimizer(plain, train))
    steps = len(loader)  # of an epoch
    schedule = build_schedule(
        optimizer, steps=steps * train.epochs, warmup_steps=round(steps * train.warmup_epochs), lr=scaled_lr(train)
    )
    averaged = plain if ema is None else ema.module
    position = folder.load_state(accelerator, averaged)
    log = TrainingLog(
        folder,
        samples=data.train,
        position=position,
        epochs=train.epochs,
        steps=steps,
        max_unreadable_fraction=config.data.max_unreadable_fraction,
        on_progress=on_progress,
    )

    def keep() -> None:
        log.share_bad_videos()
        position.step, position.seconds = log.step, log.seconds
        folder.save_state(accelerator, averaged, position)

    def step_loss(pixels: Tensor, labels: Tensor | dict[str, Tensor]) -> Tensor:
        if not len(pixels):  # this process read none of its videos, but the others wait for its gradients
            logits = model(pixels.new_zeros(1, *pixels.shape[1:]))
            return 0 * torch.stack([part.sum() for part in as_task_dict(logits).values()]).sum()
        pixels, labels = mix_batch(
            pixels, labels, config.model.num_classes, mixup=config.augment.mixup, cutmix=config.augment.cutmix
        )
        return classification_loss(
            model(pixels),
            labels,
            train.label_smoothing,
            train.loss_weights,
            multi_label=config.model.multi_label,
        )

    def on_validation(done: int, total: int) -> None:
        log.validating(done, total)
        if distributed.world_size() == 1:  # several agree on a stop between two steps only
            signals.check()

    kept_at, gathered = time.monotonic(), 0  # gathered: batches whose gradients wait for an update
    with StopSignals() as signals:
        try:
            while position.epoch < train.epochs:
                dataset.set_epoch(position.epoch)
                model.train()
                first = log.step - position.epoch * steps  # of this epoch, done before a resumption
                order.skip = first * train.batch_size
                for done, batch in enumerate(log.epoch(loader, first), start=first + 1):
                    if not gathered:  # between two updates
                        signals.check()
                        if distributed.all_reduce_max(time.monotonic() - kept_at > 60 * train.save_minutes)[0]:
                            keep()
                            kept_at = time.monotonic()
                    update = done % train.grad_accum_steps == 0 or done == steps
                    if len(batch["indices"]) or distributed.world_size() > 1:  # some videos of it could be read
                        schedule.step_update(log.step)
                        # A worker's batches are contiguous, those of this process not always: the last bits differ
                        pixels = normalize(batch["pixels"].contiguous(), plain.clip_spec, accelerator.device)
                        labels = send_to_device(batch["labels"], accelerator.device)
                        with nullcontext() if update else accelerator.no_sync(model):
                            loss = step_loss(pixels, labels)
                            accelerator.backward(loss / train.grad_accum_steps)
                        gathered += 1
                        log.trained(loss, batch["indices"], max(group["lr"] for group in optimizer.param_groups))
                    if gathered and update:
                        log.updated(accelerator.clip_grad_norm_(model.parameters(), train.clip_grad or math.inf))
                        optimizer.step()
                        optimizer.zero_grad()
                        gathered = 0
                        if ema is not None:
                            ema.update(plain, step=log.step + 1)

                signals.check()
                epoch = position.epoch + 1
                metrics: dict[str, float] = {}
                if distributed.world_size() > 1:
                    keep()  # a validation of several processes cannot be stopped
                if epoch % train.eval_every == 0 or epoch == train.epochs:
                    with accelerator.autocast():
                        metrics = log.validated(_validate(averaged, data, config, on_validation))
                    judged = next(iter(metrics))  # top1, or map
                    if not position.best or metrics[judged] > position.best[judged]:
                        position.best, position.best_epoch = metrics, epoch
                        _save(folder.best, averaged, config, data, metrics, epoch)
                _save(folder.last, averaged, config, data, metrics, epoch)
                position.epoch = epoch
                keep()
                kept_at = time.monotonic()
        except Interrupted as stop:
            keep()
            where = f"epoch {position.epoch + 1} of {train.epochs}, after step {log.step}"
            told = f"stopped in {where}; {folder.path} keeps it: go on with --resume"
            raise Interrupted(told, exit_code=stop.exit_code) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped in epoch {position.epoch + 1} of {train.epochs}; {folder.path} keeps what was saved: "
                "go on with --resume"
            ) from None
        finally:
            log.close()
            accelerator.free_memory()
    return FitResult(
        best=folder.best,
        last=folder.last,
        metrics=position.best,
        epoch=position.best_epoch,
        seconds=position.seconds,
        bad_videos=folder.bad_videos,
    )


def check_recipe(config: RunConfig) -> None:
    """See that the settings go together, without data or weights: a clip of no values goes through a model of none.

    Raises:
        XViTError: settings that do not.
    """
    model, clip = config.model, config.clip
    if model.num_frames != clip.num_frames:
        raise XViTError(f"model.num_frames={model.num_frames}, clip.num_frames={clip.num_frames}: expected the same")
    with torch.device("meta"):
        empty = XViT(model).eval()
        clip = resolve_clip_spec(clip, empty.backbone)
        pixels = torch.empty(1, clip.num_frames, 3, clip.image_size, clip.image_size)
    try:
        empty(pixels)
    except (XViTError, RuntimeError, AssertionError) as error:
        raise XViTError(
            f"clip.image_size={clip.image_size}: backbone {model.backbone} cannot take such frames: "
            f"{' '.join(str(error).split())}"
        ) from None


def classification_loss(
    logits: Tensor | dict[str, Tensor],
    labels: Tensor | dict[str, Tensor],
    label_smoothing: float = 0.0,
    weights: Mapping[str, float] | None = None,
    *,
    multi_label: bool = False,
) -> Tensor:
    """Cross-entropy, the mean over the clips, summed over the tasks. Multi-label: binary cross-entropy of each class,
    the mean over clips and classes.

    Args:
        logits: (B, classes), or a dict of them.
        labels: (B,) class indices, or (B, classes) shares of the classes, or a dict of them.
        label_smoothing: share of the target spread over all classes; multi-label, over yes and no.
        weights: of the tasks; 1 for those left out.
    """
    if isinstance(logits, dict) and isinstance(labels, dict):
        weights = weights or {}
        losses = [
            weights.get(task, 1.0) * classification_loss(logits[task], labels[task], label_smoothing) for task in logits
        ]
        return torch.stack(losses).sum()
    assert isinstance(logits, Tensor)
    assert isinstance(labels, Tensor)
    if multi_label:
        smoothed = labels * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits.float(), smoothed)
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def _with_classes(config: RunConfig, data: DatasetSplits) -> ModelConfig:
    """The model's config with the data set's number of classes."""
    given, named = config.model.num_classes, as_task_dict(data.class_names)
    found = (
        {str(task): len(names) for task, names in named.items()}
        if SINGLE_TASK not in named
        else len(named[SINGLE_TASK])
    )
    if given not in (0, found):
        raise XViTError(f"model.num_classes={given}, but {config.data.root} has {found} classes: leave it at 0")
    for task in config.train.loss_weights:
        if task not in named:
            tasks = ", ".join(filter(None, named)) or "one without a name"
            raise XViTError(f'train.loss_weights: no task "{task}": the data set has {tasks}')
    if not data.train:
        raise XViTError(f"{config.data.root}: no training videos")
    if not data.val:
        raise XViTError(f"{config.data.root}: no validation videos: give data.val_fraction or a val folder")
    return replace(config.model, num_classes=found, multi_label=config.data.multi_label)


def _accelerator(config: RunConfig) -> Accelerator:
    # accelerate holds the first settings of a process for all that follow: a second training may have others.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=distributed.uses_cpu(),
            mixed_precision="no" if config.train.precision == "fp32" else config.train.precision,
            dynamo_backend="inductor" if config.train.compile else "no",
        )
    except ValueError as error:
        raise XViTError(f"train.precision={config.train.precision!r}: not on this device: {error}") from None
    if config.train.precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would train in fp32
        raise XViTError("train.precision='fp16': not on a CPU: take fp32 or bf16")
    return accelerator


def _validate(
    model: XViT, data: DatasetSplits, config: RunConfig, on_progress: Callable[[int, int], None]
) -> Evaluation | MultiLabelEvaluation:
    """One view a video: `xvit eval` takes those of the recipe."""
    return evaluate(
        Predictor(model),
        data.val,
        eval_config=EvalConfig(batch_size=config.eval.batch_size),
        num_workers=config.data.num_workers,
        decode_timeout=config.data.decode_timeout,
        on_progress=on_progress,
    )


def _save(
    directory: Path, model: XViT, config: RunConfig, data: DatasetSplits, metrics: dict[str, float], epoch: int
) -> None:
    if not distributed.is_main():
        return
    root = Path(config.data.root).resolve().name  # not where it lay: the checkpoint may be given to others
    names = as_task_dict(data.class_names)
    counts: dict[str, dict[str, int]] = {}
    for task in names:
        numbers = Counter(chain.from_iterable(class_indices(sample.label, task) for sample in data.train))
        counts[task] = {names[task][number]: count for number, count in numbers.items()}
    named = replace(
        config.data,
        root=root,
        train=Path(config.data.train).name,
        val=Path(config.data.val).name,
        label_files=tuple(Path(file).name for file in config.data.label_files),
    )
    init = replace(config.init, checkpoint_path=Path(config.init.checkpoint_path).name)
    model.provenance = {
        "recipe": to_dict(replace(config, init=init, data=named)),
        "data": {
            "name": root,
            "train": len(data.train),
            "val": len(data.val),
            "train_videos_a_class": counts.get(SINGLE_TASK, counts),
        },
        "metrics": metrics,
        "epoch": epoch,
        "seed": config.train.seed,
        "weights": "averaged" if config.train.ema_decay else "trained",
        "versions": {"xvit": __version__, "torch": str(torch.__version__), "timm": timm.__version__},
    }
    model.save_pretrained(directory)
