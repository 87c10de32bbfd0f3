"""The training loop: `fit`."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from xvit.checkpoint import checkpoint_files
from xvit.config import EvalConfig, RunConfig, as_task_dict, to_dict, unwrap_single_task
from xvit.data.annotations import DatasetSplits, Sample, class_indices
from xvit.data.dataset import Batch, VideoDataset, describe_flip_pairs
from xvit.data.loader import VideoLoader
from xvit.evaluation import compute_metrics, describe_views, evaluate
from xvit.inference.predictor import Predictor
from xvit.models.lora import merge_lora
from xvit.training.frame_cache import FrameCache, score_frames
from xvit.training.logger import Progress
from xvit.training.losses import classification_loss, mix_batch
from xvit.training.run import TrainingRun
from xvit.training.sharding import whole_tensor
from xvit.utils import distributed
from xvit.utils.errors import Interrupted, WriteError, XViTError
from xvit.utils.version import library_versions

_logger = logging.getLogger("xvit")
VALIDATION = EvalConfig(temporal_views=1, spatial_views=1)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a finished training.

    Args:
        best: the checkpoint with the highest validation top-1, or mean average precision for multi-label models; not
            written without validation videos.
        last: the checkpoint after the last epoch.
        metrics: validation metrics of `best`: top1, top5 (with more than 5 classes), val_loss, calibration_error and
            videos (their number); for multi-label models map, val_loss, videos. They chose the checkpoint, so they tend
            to be too good. Empty without validation videos.
        epoch: the epoch of `best`, counted from 1.
        seconds: wall time, including the time before the run was resumed.
        bad_videos: number of different videos that could not be read; bad_videos.jsonl lists them.
        warned_videos: number of different videos that were used although something is wrong with them, such as damaged
            frames; bad_videos.jsonl lists them too.
        test_videos: number of videos held out from training and validation, for a final test.
    """

    best: Path
    last: Path
    metrics: dict[str, float]
    epoch: int
    seconds: float
    bad_videos: int
    warned_videos: int
    test_videos: int


@distributed.peer_errors()
def fit(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    data: DatasetSplits | None = None,
    frames: FrameCache | None = None,
) -> FitResult:
    """Train a model by a recipe.

    On the CPU, a run that was stopped and resumed ends with bit-identical weights to an uninterrupted run. With several
    processes (torchrun, accelerate launch), each process trains on its share of the clips of a step; the main process
    writes the files.

    Args:
        config: the recipe. If num_classes is 0, the model gets the classes of the data set.
        output: the run folder; `xvit.training.run_dir` says what is written there.
        resume: resume the run in `output` from its last saved state, if there is one.
        on_progress: called after every step and after every batch of a validation.
        data: the videos, in place of those of `config.data`; perhaps without validation videos.
        frames: with train.tune=head, frame vectors that several runs share, of these videos and more; by default the
            run has its own.

    Raises:
        XViTError: settings that do not go together; a run folder that is in use; unusable data; a loss that is not
            finite; an epoch in which no video could be read; another process that has ended or does not answer.
        WriteError: the run folder cannot be written, on a full disk for example. What was saved before is whole.
        Interrupted: Ctrl-C or SIGTERM was received. The current step was finished and the state saved; the message says
            how to resume.
    """
    run = TrainingRun(config, output, resume=resume, on_progress=on_progress, data=data, frames=frames)
    views = describe_views(config.eval.temporal_views, config.eval.spatial_views)
    if views != describe_views(VALIDATION.temporal_views, VALIDATION.spatial_views):
        _logger.info("validation uses one view per video, for speed; those of the recipe, %s, are for xvit eval", views)
    if pairs := describe_flip_pairs(config.augment, run.data.class_names):
        _logger.info("%s", pairs)
    if config.train.epochs <= config.train.warmup_epochs:
        _logger.warning(
            "train.warmup_epochs=%g: the learning rate rises in all %d epochs, and never falls; lower it",
            config.train.warmup_epochs,
            config.train.epochs,
        )
    state, epochs, run_dir = run.state, run.config.train.epochs, run.run_dir
    with run.signals:
        try:
            _run_epochs(run)
        except WriteError as error:
            saved = "continue with --resume once it can be" if run_dir.saved_states() else "no state is saved"
            message = f"{error}; stopped after step {state.step} of {epochs * run.steps_per_epoch}; {saved}"
            raise WriteError(message) from None
        finally:
            run.close()
    return _result(run)


def _run_epochs(run: TrainingRun) -> None:
    """Train to the end. After a stop, the state is saved and the message says how to go on."""
    state, epochs, path = run.state, run.config.train.epochs, run.run_dir.path
    try:
        check_start(run)
        while state.epoch < epochs:
            train_epoch(run)
            run.gather_eval_weights()
            metrics = validate(run)
            finish_epoch(run, metrics)
            run.free_eval_weights()
    except Interrupted as stop:
        if not state.step and not run.run_dir.is_written:  # a folder appears only after the first step
            message = f"stopped before the first step; nothing is saved in {path}"
            raise Interrupted(message, exit_code=stop.exit_code) from None
        run.save_state()
        message = f"stopped in epoch {state.epoch + 1} of {epochs}, after step {state.step}"
        message += f"; state saved in {path}; continue with --resume"
        raise Interrupted(message, exit_code=stop.exit_code) from None
    except KeyboardInterrupt:
        message = f"stopped in epoch {state.epoch + 1} of {epochs}; last saved state in {path}"
        raise KeyboardInterrupt(f"{message}; continue with --resume") from None


def _result(run: TrainingRun) -> FitResult:
    state, run_dir = run.state, run.run_dir
    return FitResult(
        best=run_dir.best,
        last=run_dir.last,
        metrics=state.best_metrics,
        epoch=state.best_epoch,
        seconds=state.seconds,
        bad_videos=len(run_dir.bad_videos["skipped"]),
        warned_videos=len(run_dir.bad_videos["used"]),
        test_videos=len(run.data.test),
    )


def check_start(run: TrainingRun) -> None:
    """Find before the training what would end it later.

    Raises:
        XViTError: the checkpoint cannot be written; no training video or no validation video can be read.
    """
    run.eval_model.provenance = _provenance(run.config, run.data)
    checkpoint_files(run.eval_model.checkpoint_metadata)
    splits = {"training": run.data.train} | ({"validation": run.data.val} if run.data.val else {})
    if run.frames is not None and run.frames.has("train"):  # an earlier run read them
        splits = {}
    message = ""
    if distributed.is_main():
        message = next(filter(None, (_why_unreadable(run, name, samples) for name, samples in splits.items())), "")
    if message := distributed.all_gather(message)[0]:
        raise XViTError(message)


def _why_unreadable(run: TrainingRun, split: str, samples: Sequence[Sample]) -> str:
    """Why no video of a split can be read; empty if one can."""
    dataset = VideoDataset(
        samples=samples,
        clip_spec=run.raw_model.clip_spec,
        class_names=run.data.class_names,
        decode_timeout=run.config.data.decode_timeout,
    )
    loader = VideoLoader(
        dataset,
        batch_size=1,
        num_workers=min(1, run.config.data.num_workers),
        sampler=None,
        pin_memory=False,
        share_memory=False,
    )
    first = None
    with closing(loader):
        for batch in loader:
            if len(batch["indices"]):
                return ""
            first = first or next(iter(batch["errors"].values()))
    return f"none of the {len(samples)} {split} videos could be read; the first error: {first}"


def train_epoch(run: TrainingRun) -> None:
    """Train on the rest of the current epoch. Signals and saving are handled between two weight updates only."""
    train = run.config.train
    steps_done = run.state.step - run.state.epoch * run.steps_per_epoch  # more than 0 in an epoch that is resumed
    run.dataset.set_epoch(run.state.epoch)
    run.sampler.skip = steps_done * train.batch_size
    run.model.train()
    num_accumulated = 0  # batches whose gradients have not been applied
    for step, batch in enumerate(run.logger.track_epoch(run.loader, steps_done), start=steps_done + 1):
        if not num_accumulated:
            run.signals.check()
            if any(distributed.all_gather(time.monotonic() - run.last_saved > 60 * train.save_minutes)):
                run.save_state()
        is_update = step % train.grad_accum_steps == 0 or step == run.steps_per_epoch
        if len(batch["indices"]) or distributed.world_size() > 1:  # else no video of the batch could be read
            backward(run, batch, sync_gradients=is_update)
            num_accumulated += 1
        if num_accumulated and is_update:
            update_weights(run)
            num_accumulated = 0
        run.state.step += 1
        run.run_dir.open()
    run.signals.check()


def backward(run: TrainingRun, batch: Batch, *, sync_gradients: bool) -> None:
    """Set the learning rate of the step, add the gradients of a batch, and log its loss.

    With `sync_gradients`, the gradients are averaged over the processes.
    """
    run.schedule.step_update(run.state.step)
    inputs = run.model_inputs(batch)
    labels = send_to_device(batch["labels"], run.accelerator.device)
    with nullcontext() if sync_gradients else run.accelerator.no_sync(run.model):
        loss = compute_loss(run, inputs, labels)
        run.accelerator.backward(loss / run.config.train.grad_accum_steps)
    run.logger.log_step(loss, batch["indices"], max(group["lr"] for group in run.optimizer.param_groups))


def compute_loss(run: TrainingRun, inputs: Tensor, labels: Tensor | dict[str, Tensor]) -> Tensor:
    """The loss of a batch of (B, T, C, H, W) clips, with mixup and cutmix, or of (B, T, D) frame vectors."""
    model, augment, train = run.config.model, run.config.augment, run.config.train
    if not len(inputs):  # the other processes still need the gradients of this one: 0 for all parameters
        zeros = as_task_dict(_forward(run, inputs.new_zeros(1, *inputs.shape[1:])))
        return 0 * torch.stack([task_logits.sum() for task_logits in zeros.values()]).sum()
    inputs, labels = mix_batch(inputs, labels, model.num_classes, mixup=augment.mixup, cutmix=augment.cutmix)
    logits = _forward(run, inputs)
    return classification_loss(logits, labels, train.label_smoothing, train.loss_weights, multi_label=model.multi_label)


def _forward(run: TrainingRun, inputs: Tensor) -> Tensor | dict[str, Tensor]:
    with run.accelerator.autocast():  # of which accelerate knows nothing in a sharded model
        logits: Tensor | dict[str, Tensor] = run.model(inputs)
    return logits


def update_weights(run: TrainingRun) -> None:
    """Clip the accumulated gradients, apply them, and update the averaged weights."""
    max_norm = run.config.train.clip_grad or math.inf
    grad_norm = run.accelerator.clip_grad_norm_(run.model.parameters(), max_norm)
    run.logger.log_grad_norm(whole_tensor(grad_norm))
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema_model is not None:
        run.ema_model.update(run.raw_model, step=run.state.step + 1)


def validate(run: TrainingRun) -> dict[str, float]:
    """The metrics of the current epoch by one view per video; empty if no validation is due."""
    epoch, train = run.state.epoch + 1, run.config.train
    if not run.data.val or (epoch % train.eval_every and epoch != train.epochs):
        return {}
    if run.frames is not None:
        with run.accelerator.autocast():
            scored = score_frames(run.eval_model, run.frames, run.frame_reader, run.data.val)
            return run.logger.log_validation(compute_metrics(scored))
    if distributed.world_size() > 1:
        run.save_state()  # with several processes a validation cannot be interrupted
    with run.accelerator.autocast():
        result = evaluate(
            Predictor(run.eval_model),
            run.data.val,
            eval_config=replace(VALIDATION, batch_size=run.config.eval.batch_size),
            num_workers=run.config.data.num_workers,
            decode_timeout=run.config.data.decode_timeout,
            on_progress=partial(_on_validation_progress, run),
        )
    return run.logger.log_validation(result)


def _on_validation_progress(run: TrainingRun, done: int, total: int) -> None:
    run.logger.report_progress("eval", done, total)
    if distributed.world_size() == 1:  # several processes can agree on a stop between two steps only
        run.signals.check()


def finish_epoch(run: TrainingRun, metrics: dict[str, float]) -> None:
    """Save the checkpoints and the state of an epoch.

    `last` and the state are saved after the epochs that train.eval_every says, and after the last one. An epoch of
    frame vectors takes less time than saving it: they are then saved after the last one only. In between the state is
    saved as often as train.save_minutes says.
    """
    state, epoch = run.state, run.state.epoch + 1
    if metrics:
        monitor = "map" if run.config.model.multi_label else "top1"
        if not state.best_metrics or metrics[monitor] > state.best_metrics[monitor]:
            state.best_metrics, state.best_epoch = metrics, epoch
            save_checkpoint(run, run.run_dir.best, epoch, {"metrics": metrics, "chosen_by": f"validation {monitor}"})
    state.epoch = epoch
    is_due = run.frames is None and epoch % run.config.train.eval_every == 0
    if not is_due and epoch < run.config.train.epochs:
        return
    save_checkpoint(run, run.run_dir.last, epoch, {"metrics": metrics})
    run.save_state()


def save_checkpoint(run: TrainingRun, directory: Path, epoch: int, result: dict[str, Any]) -> None:
    """Write the model after an epoch, LoRA merged, with its training and its result, in the main process."""
    if distributed.is_main():
        run.run_dir.open()
        provenance = _provenance(run.config, run.data) | {"epoch": epoch} | result
        provenance["data"]["fingerprints"] = run.fingerprints
        model = merge_lora(run.eval_model)
        model.provenance = provenance
        model.save_pretrained(directory)


def _provenance(config: RunConfig, data: DatasetSplits) -> dict[str, Any]:
    """Where a model comes from. Paths are cut to names: the checkpoint may be given to others."""
    recipe, name = to_dict(config), Path(config.data.root).resolve().name
    for section, key in (("data", "train"), ("data", "val"), ("data", "test"), ("init", "checkpoint_path")):
        recipe[section][key] = Path(recipe[section][key]).name
    recipe["data"] |= {"root": name, "label_files": [Path(file).name for file in config.data.label_files]}
    videos_per_class = {}
    for task, class_names in as_task_dict(data.class_names).items():
        counts = Counter(chain.from_iterable(class_indices(sample.label, task) for sample in data.train))
        videos_per_class[task] = {class_names[index]: count for index, count in counts.items()}
    videos = {"train": len(data.train), "val": len(data.val)}
    return {
        "recipe": recipe,
        "data": {"name": name, **videos, "train_videos_per_class": unwrap_single_task(videos_per_class)},
        "seed": config.train.seed,
        "weights": "averaged" if config.train.ema_decay else "trained",
        "versions": library_versions(),
    }
