"""What a training reports: metric rows, progress and unreadable videos. It stops a run whose loss is not finite."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from xvit.data.annotations import Sample
from xvit.data.dataset import Batch
from xvit.evaluation import Evaluation, MultiLabelEvaluation
from xvit.training.run_dir import RunDirectory, TrainState
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError

_MAX_STEPS_PER_ROW = 20  # writing a row waits for the device, so not every step has one

Stage = Literal["train", "eval"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a training.

    Args:
        stage: train, or eval during a validation.
        epoch: the current epoch, counted from 1.
        epochs: number of epochs.
        step: steps done in this epoch; during a validation, videos done.
        steps: number of steps in an epoch, or of videos.
        loss: mean over the steps of the latest metric row; None before the first row.
        lr: learning rate.
        clips_per_second: of the latest metric row; None before the first row.
        bad_videos: number of different videos that could not be read so far.
        metrics: of the latest validation: top1, top5, val_loss, or map, val_loss; empty before the first validation.
    """

    stage: Stage
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None
    lr: float = 0.0
    clips_per_second: float | None = None
    bad_videos: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class TrainingLogger:
    """Measures a training and writes its metric rows.

    Args:
        run_dir: where the rows are written.
        samples: the training videos.
        state: what has been done so far. The logger reads its epoch and step.
        epochs: number of epochs of the run.
        steps_per_epoch: number of batches in an epoch.
        max_unreadable_fraction: fraction of the samples whose videos may be unreadable.
        on_progress: called after every step and after every batch of a validation.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        *,
        samples: list[Sample],
        state: TrainState,
        epochs: int,
        steps_per_epoch: int,
        max_unreadable_fraction: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.run_dir, self.samples, self.state = run_dir, samples, state
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.max_unreadable_fraction = max_unreadable_fraction
        self.on_progress = on_progress
        self.metrics: dict[str, float] = {}  # of the latest validation
        self._start_time = time.perf_counter() - state.seconds
        self._steps_per_row = math.ceil(steps_per_epoch / math.ceil(steps_per_epoch / _MAX_STEPS_PER_ROW))
        self._loss: float | None = None
        self._lr = 0.0
        self._clips_per_second: float | None = None
        self._unreadable_paths: set[str] = set()
        self._unshared_errors: list[VideoError] = []  # of this process, not yet known to the others
        self._tensorboard: SummaryWriter | None = None
        if distributed.is_main():
            self._tensorboard = SummaryWriter(str(run_dir.path / "tensorboard"), purge_step=state.step + 1)

    @property
    def seconds(self) -> float:
        """Wall time of the run, including the time before it was resumed."""
        return time.perf_counter() - self._start_time

    def track_epoch(self, loader: Iterable[Batch], steps_done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch. Measures the wait for each and collects unreadable videos.

        Args:
            loader: yields the batches, without the first `steps_done`.
            steps_done: batches of the epoch that were trained on before the run was resumed.

        Raises:
            XViTError: no video of the epoch could be read, or more were unreadable than allowed; a loss that is not
                finite.
        """
        step, num_read, error = steps_done, steps_done, None
        self._start_row()
        wait_start = time.perf_counter()
        for batch in loader:
            step += 1
            self._data_seconds += time.perf_counter() - wait_start
            for error in batch["errors"].values():
                self._unshared_errors.append(error)
            num_read += len(batch["indices"])
            yield batch
            if step % self._steps_per_row == 0 or step == self.steps_per_epoch:
                self._write_train_row(step)
            self.report_progress("train", step, self.steps_per_epoch)
            wait_start = time.perf_counter()
        if not sum(distributed.all_gather(num_read)):
            raise XViTError(
                f"epoch {self.state.epoch + 1}: none of {len(self.samples)} videos could be read; the last error: "
                f"{error}"
            )

    def log_step(self, loss: Tensor, indices: Tensor, lr: float) -> None:
        """Record the results of the current step, on the device where they are."""
        self._losses.append(loss.detach())
        self._indices.append(indices)
        self._steps.append(self.state.step + 1)
        self._lr = lr

    def log_grad_norm(self, grad_norm: Tensor) -> None:
        """Record the gradient norm of a weight update."""
        self._grad_norms.append(grad_norm)

    def log_validation(self, result: Evaluation | MultiLabelEvaluation) -> dict[str, float]:
        """Write the row of a validation. Returns its metrics."""
        for _, path, reason in result.failures:
            self.run_dir.add_bad_video(VideoError(path, reason))
        self.metrics = result.metrics
        self._write_row("eval", self.state.epoch + 1, {**self.metrics, "failed": len(result.failures)})
        return self.metrics

    def report_progress(self, stage: Stage, step: int, steps: int) -> None:
        """Call `on_progress`."""
        if self.on_progress is not None:
            self.on_progress(
                Progress(
                    stage=stage,
                    epoch=self.state.epoch + 1,
                    epochs=self.epochs,
                    step=step,
                    steps=steps,
                    loss=self._loss,
                    lr=self._lr,
                    clips_per_second=self._clips_per_second,
                    bad_videos=self.run_dir.bad_videos,
                    metrics=self.metrics,
                )
            )

    def share_bad_videos(self) -> None:
        """Write the unreadable videos of all processes to bad_videos.jsonl.

        Raises:
            XViTError: more videos are unreadable than allowed.
        """
        errors, self._unshared_errors = self._unshared_errors, []
        for error in chain.from_iterable(distributed.all_gather(errors)):
            self.run_dir.add_bad_video(error)
            self._unreadable_paths.add(error.path)
        if len(self._unreadable_paths) > self.max_unreadable_fraction * len(self.samples):
            raise XViTError(
                f"{len(self._unreadable_paths)} of {len(self.samples)} training videos could not be read, more than "
                f"data.max_unreadable_fraction={self.max_unreadable_fraction:g}; they are listed in "
                f"{self.run_dir.path / 'bad_videos.jsonl'}"
            )

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _start_row(self) -> None:
        self._losses: list[Tensor] = []
        self._grad_norms: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._steps: list[int] = []
        self._data_seconds = 0.0
        self._row_start = time.perf_counter()

    def _write_train_row(self, step: int) -> None:
        """Write the metrics since the last row, after `step` steps of the epoch."""
        self.share_bad_videos()
        losses = torch.stack(self._losses).cpu() if self._losses else torch.empty(0)
        self._check_finite(losses)
        num_clips = sum(distributed.all_gather(sum(map(len, self._indices))))
        if all_losses := list(chain.from_iterable(distributed.all_gather(losses.tolist()))):
            seconds = time.perf_counter() - self._row_start  # measured after .cpu(), which waits for the device
            self._loss = sum(all_losses) / len(all_losses)
            self._clips_per_second = num_clips / seconds
            self._write_row(
                "train",
                round(self.state.epoch + step / self.steps_per_epoch, 4),
                {
                    "loss": self._loss,
                    "lr": self._lr,
                    "grad_norm": torch.stack(self._grad_norms).mean().item() if self._grad_norms else None,
                    "clips_per_second": round(self._clips_per_second, 3),
                    "data_seconds": round(self._data_seconds, 4),
                    "compute_seconds": round(seconds - self._data_seconds, 4),
                    "bad_videos": self.run_dir.bad_videos,
                },
            )
        self._start_row()

    def _check_finite(self, losses: Tensor) -> None:
        """Raise an error for the first loss, in any process, that is not finite."""
        first = (~losses.isfinite()).nonzero().flatten().tolist()[:1]
        failures = [
            (self._steps[i], losses[i].item(), ", ".join(self.samples[k].id for k in self._indices[i].tolist()))
            for i in first
        ]
        for step, loss, ids in sorted(chain.from_iterable(distributed.all_gather(failures)))[:1]:
            last = self.run_dir.last
            saved = f"{last} is the checkpoint of the previous epoch" if last.exists() else "no checkpoint saved yet"
            raise XViTError(
                f"step {step} (epoch {self.state.epoch + 1}): the loss is {loss}, so training stops ({saved}). Try a "
                f"lower train.lr, more train.warmup_epochs or another train.precision. Videos of that step: {ids}"
            )

    def _write_row(self, stage: Stage, epoch: float, values: dict[str, float | None]) -> None:
        if self._tensorboard is None:
            return
        self.run_dir.append({"stage": stage, "epoch": epoch, "step": self.state.step, **values})
        for name, value in values.items():
            if value is not None:
                self._tensorboard.add_scalar(f"{stage}/{name}", value, self.state.step)
