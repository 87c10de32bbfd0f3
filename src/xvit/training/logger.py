"""What a training tells: rows of metrics, progress, bad videos, and a clear end when the loss is no number."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from xvit.data.annotations.samples import Sample
from xvit.data.dataset import Batch
from xvit.evaluation import Evaluation, MultiLabelEvaluation
from xvit.training.run_dir import RunDirectory, TrainState
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError

_ROW_STEPS = 20  # at most so many steps a row; each row waits for the device once


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is.

    Args:
        stage: train, or eval during a validation.
        epoch: the current one, from 1.
        epochs: in all.
        step: training: steps done of this epoch; validation: videos done.
        steps: in all, of the same.
        loss: mean over the steps of the latest row; None before the first.
        lr: learning rate.
        clips_per_second: of the latest row; None before the first.
        bad_videos: different videos that could not be read so far.
        metrics: of the latest validation: top1, top5, val_loss, or map, val_loss; empty before the first.
    """

    stage: Literal["train", "eval"]
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None
    lr: float = 0.0
    clips_per_second: float | None = None
    bad_videos: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class TrainingLog:
    """Clocks and counts of a run, and the rows made of them.

    Args:
        folder: where rows go.
        samples: the training videos.
        position: where the run starts; `step` counts on from there.
        epochs: of the whole run.
        steps: of an epoch.
        max_unreadable_fraction: share of the samples whose videos may be unreadable.
        on_progress: told after every step and every batch of a validation.
    """

    def __init__(
        self,
        folder: RunDirectory,
        *,
        samples: list[Sample],
        position: TrainState,
        epochs: int,
        steps: int,
        max_unreadable_fraction: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.folder, self.samples, self.epochs, self.steps = folder, samples, epochs, steps
        self.max_unreadable_fraction = max_unreadable_fraction
        self.on_progress = on_progress
        self.step = position.step  # steps done, of all epochs
        self.metrics: dict[str, float] = {}  # of the latest validation
        self._epoch = position.epoch  # the current one, from 1 once it has begun
        self._began = time.perf_counter() - position.seconds
        rows = math.ceil(steps / _ROW_STEPS)
        self._row_steps = math.ceil(steps / rows)
        self._loss: float | None = None
        self._lr = 0.0
        self._clips_per_second: float | None = None
        self._unreadable: set[str] = set()
        self._errors: list[VideoError] = []  # of this process, which the others have not been told of
        self._board: SummaryWriter | None = None
        if distributed.is_main():
            self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=self.step + 1)

    @property
    def seconds(self) -> float:
        """Wall time of the run, with that before a resumption."""
        return time.perf_counter() - self._began

    def epoch(self, loader: Iterable[Batch], done: int = 0) -> Iterator[Batch]:
        """One epoch's batches: times the waiting for each, notes its bad videos, ends the step after it.

        Args:
            loader: gives the batches, without the first `done`.
            done: batches of the epoch that were trained on before a resumption.

        Raises:
            XViTError: not one video of the epoch could be read, or more than tolerated could not; a loss that is not
                finite.
        """
        self._epoch += 1
        trained, error = done, None
        self._start_row()
        waited = time.perf_counter()
        for batch in loader:
            done += 1
            self._data_seconds += time.perf_counter() - waited
            for error in batch["errors"].values():
                self._errors.append(error)
            trained += len(batch["indices"])
            yield batch
            self.step += 1
            if done % self._row_steps == 0 or done == self.steps:
                self._write_row(done)
            self._tell("train", done, self.steps)
            waited = time.perf_counter()
        if not sum(distributed.all_gather(trained)):
            raise XViTError(f"epoch {self._epoch}: none of {len(self.samples)} videos could be read; the last: {error}")

    def share_bad_videos(self) -> None:
        """Note the videos that could not be read, of all processes.

        Raises:
            XViTError: more than are tolerated.
        """
        errors, self._errors = self._errors, []
        for error in chain.from_iterable(distributed.all_gather(errors)):
            self.folder.note_bad(error)
            self._unreadable.add(error.path)
        if len(self._unreadable) > self.max_unreadable_fraction * len(self.samples):
            raise XViTError(
                f"{len(self._unreadable)} of {len(self.samples)} training videos could not be read, more than "
                f"data.max_unreadable_fraction={self.max_unreadable_fraction:g}; {self.folder.path / 'bad_videos.jsonl'} "
                "names them"
            )

    def updated(self, grad_norm: Tensor) -> None:
        """Keep the gradients' norm of an update."""
        self._norms.append(grad_norm)

    def trained(self, loss: Tensor, indices: Tensor, lr: float) -> None:
        """Keep the results of the step under way, on the device where they are."""
        self._losses.append(loss.detach())
        self._indices.append(indices)
        self._steps.append(self.step + 1)
        self._lr = lr

    def validating(self, done: int, total: int) -> None:
        """Tell that so many videos of a validation are done."""
        self._tell("eval", done, total)

    def validated(self, result: Evaluation | MultiLabelEvaluation) -> dict[str, float]:
        """Write the row of a validation; its metrics are returned."""
        for _, path, reason in result.failures:
            self.folder.note_bad(VideoError(path, reason))
        self.metrics = result.metrics
        self._write("eval", self._epoch, self.metrics | {"failed": len(result.failures)})
        return self.metrics

    def close(self) -> None:
        """Let TensorBoard's file be whole."""
        if self._board is not None:
            self._board.close()

    def _start_row(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._steps: list[int] = []
        self._data_seconds = 0.0
        self._row_began = time.perf_counter()

    def _write_row(self, done: int) -> None:
        self.share_bad_videos()
        losses = torch.stack(self._losses).cpu() if self._losses else torch.empty(0)
        places = (~losses.isfinite()).nonzero().flatten().tolist()
        wrong = [(self._steps[place], losses[place].item(), self._ids(place)) for place in places[:1]]
        for first in sorted(chain.from_iterable(distributed.all_gather(wrong)))[:1]:
            self._stop(*first)
        clips = sum(distributed.all_gather(sum(map(len, self._indices))))
        if all_losses := list(chain.from_iterable(distributed.all_gather(losses.tolist()))):
            seconds = time.perf_counter() - self._row_began  # after the losses came, which waits for the device
            self._loss = sum(all_losses) / len(all_losses)
            self._clips_per_second = clips / seconds
            self._write(
                "train",
                round(self._epoch - 1 + done / self.steps, 4),
                {
                    "loss": self._loss,
                    "lr": self._lr,
                    "grad_norm": torch.stack(self._norms).mean().item() if self._norms else None,
                    "clips_per_second": round(self._clips_per_second, 3),
                    "data_seconds": round(self._data_seconds, 4),
                    "compute_seconds": round(seconds - self._data_seconds, 4),
                    "bad_videos": self.folder.bad_videos,
                },
            )
        self._start_row()

    def _ids(self, place: int) -> str:
        return ", ".join(self.samples[index].id for index in self._indices[place].tolist())

    def _stop(self, step: int, loss: float, ids: str) -> None:
        kept = f"{self.folder.last} is from the epoch before" if self.folder.last.exists() else "no checkpoint yet"
        raise XViTError(
            f"step {step} (epoch {self._epoch}): the loss is {loss}, so training stops ({kept}). Try a lower train.lr, "
            f"more train.warmup_epochs or another train.precision. Videos of that step: {ids}"
        )

    def _write(self, stage: Literal["train", "eval"], epoch: float, values: dict[str, Any]) -> None:
        if self._board is None:
            return
        self.folder.append({"stage": stage, "epoch": epoch, "step": self.step, **values})
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{stage}/{name}", value, self.step)

    def _tell(self, stage: Literal["train", "eval"], step: int, steps: int) -> None:
        if self.on_progress is not None:
            self.on_progress(
                Progress(
                    stage=stage,
                    epoch=self._epoch,
                    epochs=self.epochs,
                    step=step,
                    steps=steps,
                    loss=self._loss,
                    lr=self._lr,
                    clips_per_second=self._clips_per_second,
                    bad_videos=self.folder.bad_videos,
                    metrics=self.metrics,
                )
            )
