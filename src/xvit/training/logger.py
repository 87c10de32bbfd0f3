"""What a training reports: metric rows, progress and bad videos. It stops a run whose loss is not finite."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from xvit.config import RunConfig
from xvit.data.annotations import Sample
from xvit.data.dataset import Batch
from xvit.evaluation import Evaluation, MultiLabelEvaluation
from xvit.training.rows import BAD_VIDEOS, METRICS
from xvit.training.run_dir import RunDirectory
from xvit.training.state import TrainState
from xvit.training.tensorboard import TensorBoardWriter
from xvit.utils import distributed
from xvit.utils.errors import XViTError

_MAX_STEPS_PER_ROW = 20  # writing a row waits for the device, so not every step has one

Stage = Literal["frames", "train", "eval"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a training.

    Args:
        stage: train, eval during a validation, or frames while frame vectors are computed (train.tune=head).
        epoch: the current epoch, counted from 1.
        epochs: number of epochs.
        step: steps done in this epoch; during a validation and for frame vectors, videos done.
        steps: number of steps in an epoch, or of videos.
        loss: mean over the steps of the latest metric row; None before the first row.
        lr: learning rate.
        clips_per_second: of the latest metric row; None before the first row.
        bad_videos: number of different videos that could not be read so far.
        metrics: of the latest validation: top1, top5 (with more than 5 classes), val_loss, calibration_error, videos
            (number of videos), or map, val_loss, videos; empty before the first validation.
        validation: the result of a validation, once, when it has ended; else None.
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
    validation: Evaluation | MultiLabelEvaluation | None = None


class TrainingLogger:
    """Measures the training on `samples` and writes its metric rows to the run folder.

    It reads the current epoch and step from `state`. `steps_per_epoch` is the number of batches in an epoch.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        config: RunConfig,
        samples: list[Sample],
        state: TrainState,
        steps_per_epoch: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.run_dir, self.config, self.samples, self.state = run_dir, config, samples, state
        self.steps_per_epoch, self.on_progress = steps_per_epoch, on_progress
        self._steps_per_row = math.ceil(steps_per_epoch / math.ceil(steps_per_epoch / _MAX_STEPS_PER_ROW))
        self._latest: dict[str, Any] = {}  # the fields of `Progress` that are known so far from steps and validations
        self._unreadable_paths: set[str] = set()
        # Of this process, not yet known to the others: path, reason, and whether the video was skipped or used.
        self._unshared_videos: list[tuple[str, str, Literal["skipped", "used"]]] = []
        self._tensorboard = TensorBoardWriter(run_dir.path / "tensorboard", first_step=state.step + 1)

    def track_epoch(self, loader: Iterable[Batch], steps_done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch. Measures the wait for each and collects bad videos.

        The loader leaves out the first `steps_done` batches, which were trained on before the run was resumed.

        Raises:
            XViTError: no video of the epoch could be read; too many are unreadable; a loss is not finite.
        """
        step, num_read, error = steps_done, steps_done, None
        self._start_row()
        wait_start = time.perf_counter()
        for batch in loader:
            step += 1
            self._data_seconds += time.perf_counter() - wait_start
            for error in batch["errors"].values():
                self._unshared_videos.append((error.path, error.reason, "skipped"))
            for index, warnings in batch["warnings"].items():
                self._unshared_videos.append((self.samples[index].path, "; ".join(warnings), "used"))
            num_read += len(batch["indices"])
            yield batch
            if step % self._steps_per_row == 0 or step == self.steps_per_epoch:
                self._write_train_row(step)
            self.report_progress("train", step, self.steps_per_epoch)
            wait_start = time.perf_counter()
        if not sum(distributed.all_gather(num_read)):
            message = f"epoch {self.state.epoch + 1}: none of {len(self.samples)} videos could be read"
            raise XViTError(f"{message}; the last error: {error}")

    def log_step(self, loss: Tensor, indices: Tensor, lr: float) -> None:
        """Record the results of the current step. The loss stays on its device."""
        self._steps.append((self.state.step + 1, loss.detach(), indices.tolist()))
        self._latest["lr"] = lr

    def log_grad_norm(self, grad_norm: Tensor) -> None:
        """Record the gradient norm of a weight update."""
        self._grad_norms.append(grad_norm)

    def log_validation(self, result: Evaluation | MultiLabelEvaluation) -> dict[str, float]:
        """Write the row of a validation and report it. Returns its metrics."""
        for _, path, reason in result.failures:
            self.run_dir.add_bad_video(path, reason, "skipped")
        for _, path, warnings in result.warnings:
            self.run_dir.add_bad_video(path, "; ".join(warnings), "used")
        self._latest["metrics"] = metrics = result.metrics
        views = {"temporal_views": result.temporal_views, "spatial_views": result.spatial_views}
        counts = {"failed": len(result.failures), "with_warnings": len(result.warnings)}
        self._write_row("eval", self.state.epoch + 1, {**metrics, **views, **counts})
        self.report_progress("eval", result.expected, result.expected, result)
        return metrics

    def report_progress(
        self, stage: Stage, step: int, steps: int, validation: Evaluation | MultiLabelEvaluation | None = None
    ) -> None:
        """Call `on_progress`, with the result of a validation that has just ended."""
        if self.on_progress is not None:
            epoch, epochs, bad_videos = self.state.epoch + 1, self.config.train.epochs, self.num_skipped
            position = Progress(stage=stage, epoch=epoch, epochs=epochs, step=step, steps=steps, bad_videos=bad_videos)
            self.on_progress(replace(position, validation=validation, **self._latest))

    def share_bad_videos(self) -> None:
        """Write the bad videos of all processes to bad_videos.jsonl. Raises `XViTError` if too many are unreadable."""
        videos, self._unshared_videos = self._unshared_videos, []
        for path, reason, outcome in chain.from_iterable(distributed.all_gather(videos)):
            self.run_dir.add_bad_video(path, reason, outcome)
            if outcome == "skipped":
                self._unreadable_paths.add(path)
        number, total, limit = len(self._unreadable_paths), len(self.samples), self.config.data.max_unreadable_fraction
        if number > limit * total:
            raise XViTError(
                f"{number} of {total} training videos could not be read, more than data.max_unreadable_fraction="
                f"{limit:g}; they are listed in {self.run_dir.path / BAD_VIDEOS}"
            )

    @property
    def num_skipped(self) -> int:
        """Number of different videos that could not be read so far."""
        return len(self.run_dir.bad_videos["skipped"])

    def _start_row(self) -> None:
        self._steps: list[tuple[int, Tensor, list[int]]] = []  # number, loss and sample indices of each step
        self._grad_norms: list[Tensor] = []
        self._data_seconds = 0.0
        self._row_start = time.perf_counter()

    def _write_train_row(self, step: int) -> None:
        """Write the metrics since the last row, after `step` steps of the epoch."""
        self.share_bad_videos()
        losses = torch.stack([loss for _, loss, _ in self._steps]).tolist() if self._steps else []
        local = [(number, loss, indices) for (number, _, indices), loss in zip(self._steps, losses, strict=True)]
        if steps := list(chain.from_iterable(distributed.all_gather(local))):
            self._check_finite(steps)
            seconds = time.perf_counter() - self._row_start  # after .tolist(), which waits for the device
            loss = sum(loss for _, loss, _ in steps) / len(steps)
            clips_per_second = sum(len(indices) for _, _, indices in steps) / seconds
            self._latest |= {"loss": loss, "clips_per_second": clips_per_second}
            row = {
                "loss": loss,
                "lr": self._latest["lr"],
                "grad_norm": torch.stack(self._grad_norms).mean().item() if self._grad_norms else None,
                "clips_per_second": round(clips_per_second, 3),
                "data_seconds": round(self._data_seconds, 4),
                "compute_seconds": round(seconds - self._data_seconds, 4),
                "bad_videos": self.num_skipped,
            }
            self._write_row("train", round(self.state.epoch + step / self.steps_per_epoch, 4), row)
        self._start_row()

    def _check_finite(self, steps: list[tuple[int, float, list[int]]]) -> None:
        """Raise an error for the first of (step, loss, sample indices) whose loss is not finite."""
        failed = [values for values in steps if not math.isfinite(values[1])]
        if failed:
            step, loss, indices = min(failed)
            last, ids = self.run_dir.last, ", ".join(self.samples[index].id for index in indices)
            when = "the previous" if self.config.train.eval_every == 1 else "an earlier"
            saved = f"{last} is the checkpoint of {when} epoch" if last.exists() else "no checkpoint saved yet"
            raise XViTError(
                f"step {step} (epoch {self.state.epoch + 1}): the loss is {loss}, so training stops ({saved}). Try a "
                f"lower train.lr, more train.warmup_epochs or another train.precision. Videos of that step: {ids}"
            )

    def _write_row(self, stage: Stage, epoch: float, values: dict[str, float | None]) -> None:
        self.run_dir.append(METRICS, {"stage": stage, "epoch": epoch, "step": self.state.step, **values})
        if distributed.is_main():
            scalars = {f"{stage}/{name}": value for name, value in values.items() if value is not None}
            self._tensorboard.add_scalars(scalars, self.state.step)
