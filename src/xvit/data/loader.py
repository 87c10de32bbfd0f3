"""The data loader: batches of a `VideoDataset` or an `ArrayDataset`, read by worker processes."""

import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xvit.data.arrays import ArrayDataset
from xvit.data.reading import Item
from xvit.utils.errors import XViTError, check_range
from xvit.utils.workers import Killed, WorkerPool, killed_error

if TYPE_CHECKING:  # not imported, because an exported model is run without torch
    from xvit.data.dataset import Batch, VideoDataset
    from xvit.data.sampler import EpochSampler

    AnyDataset = VideoDataset | ArrayDataset

SHARED_MEMORY = Path("/dev/shm")  # Linux; on other systems workers pass batches in other ways
PREFETCH_FACTOR = 2  # batches that each worker reads ahead
_MAX_KILLS = 10  # of workers in one epoch that no single video explains

_Job = tuple[int, list[int | Item]]  # the epoch, and a batch: indices to read, and items of videos not to be read

_Pool = WorkerPool[_Job, Any]

_logger = logging.getLogger("xvit")


def make_loader(
    dataset: "AnyDataset",
    *,
    batch_size: int,
    num_workers: int = 0,
    sampler: "EpochSampler | None" = None,
    pin_memory: bool = False,
) -> "VideoLoader":
    """A loader that yields `Batch`es and keeps its workers between epochs.

    Call `dataset.set_epoch` before each epoch. Without enough shared memory, as in small containers, the workers pass
    the batches through pipes, and a log message says so.

    Args:
        batch_size: videos per batch, including unreadable ones.
        num_workers: worker processes, each with one torch thread; 0 reads in the main process.
        sampler: which samples an epoch reads, in which order; None reads all of them in their order.
        pin_memory: copy batches to pinned memory, for faster transfer to a GPU.

    Raises:
        XViTError: a number out of its range.
    """
    check_range("batch_size", batch_size, 1)
    check_range("num_workers", num_workers, 0)
    share_memory = num_workers > 0 and not isinstance(dataset, ArrayDataset)  # arrays are small: test views only
    shortage = share_memory and shared_memory_shortage(dataset, batch_size=batch_size, num_workers=num_workers)
    if shortage:
        _logger.warning("%s: they are passed through pipes, which is slower (for docker: run --shm-size=8g)", shortage)
    return VideoLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=sampler,
        pin_memory=pin_memory,
        share_memory=share_memory and not shortage,
    )


def shared_memory_shortage(dataset: "AnyDataset", *, batch_size: int, num_workers: int) -> str:
    """Why the workers' batches do not fit in shared memory; empty if they do. (Workers would die with "Bus error".)"""
    needed = math.prod(dataset.item_shape) * batch_size * (PREFETCH_FACTOR * num_workers + 1)
    batches = f"the batches of {num_workers} loader workers need {needed / 1e6:.0f} MB"
    import torch

    try:
        torch.empty(1).share_memory_()
    except RuntimeError:  # missing, read-only or full
        return f"{SHARED_MEMORY}: no usable shared memory, but {batches}"
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else math.inf
    return "" if free >= needed else f"{SHARED_MEMORY}: {free / 1e6:.0f} MB free, but {batches}"


class VideoLoader:
    """An iterable over the batches of an epoch; see `make_loader`.

    If a worker is killed, by a crash of a decoder or for lack of memory, the videos of its batch are read again, one at
    a time. A video that kills its process again counts as unreadable, in later epochs too. All else stays the same.
    """

    def __init__(
        self,
        dataset: "AnyDataset",
        *,
        batch_size: int,
        num_workers: int,
        sampler: "EpochSampler | None",
        pin_memory: bool,
        share_memory: bool,
    ) -> None:
        self.dataset, self.batch_size, self.num_workers, self.sampler = dataset, batch_size, num_workers, sampler
        self.pin_memory, self._share_memory = pin_memory, share_memory
        self._fatal: dict[int, Item] = {}  # by sample index: those that kill the process that reads them
        self._pool = self._open_pool(_read_batch, num_workers, prefetch=PREFETCH_FACTOR)

    def _open_pool(self, read: "Callable[[AnyDataset, _Job], Any]", num_workers: int, *, prefetch: int) -> _Pool:
        return WorkerPool(
            partial(read, self.dataset),
            num_workers,
            initializer=_use_one_thread,
            prefetch=prefetch,
            share_memory=self._share_memory,
        )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.dataset if self.sampler is None else self.sampler) / self.batch_size)

    def __iter__(self) -> "Iterator[Batch]":
        """Yield the batches of the data set's epoch, in order.

        Raises:
            XViTError: workers are killed again and again, though each of their videos can be read.
        """
        indices = list(range(len(self.dataset)) if self.sampler is None else self.sampler)
        requests = [self._fatal.get(index % len(self.dataset), index) for index in indices]
        batches = [requests[start : start + self.batch_size] for start in range(0, len(requests), self.batch_size)]
        jobs = [(self.dataset.epoch, batch) for batch in batches]
        for batch in self._read_in_workers(jobs) if self.num_workers else map(partial(_read_batch, self.dataset), jobs):
            if self.pin_memory:
                batch["pixels"] = batch["pixels"].pin_memory()
            yield batch

    def close(self) -> None:
        """End the workers. They also end with the loader, but the traceback of an error can keep that alive."""
        self._pool.close()

    def _read_in_workers(self, jobs: list[_Job]) -> "Iterator[Batch]":
        finished: dict[int, Any] = {}  # read before those that precede them
        position = num_kills = 0
        for index, result in self._pool.imap(jobs, window=PREFETCH_FACTOR * self.num_workers):
            if isinstance(result, Killed):
                num_fatal = len(self._fatal)
                result = self._read_one_by_one(jobs[index], result)
                num_kills += len(self._fatal) == num_fatal
                if num_kills > _MAX_KILLS:
                    raise XViTError(
                        f"loader workers were killed {num_kills} times, though each of their videos can be read: "
                        "perhaps memory is short; use fewer workers or a smaller batch"
                    )
            finished[index] = result
            while position in finished:
                yield finished.pop(position)
                position += 1

    def _read_one_by_one(self, job: _Job, killed: Killed) -> Any:
        """Read the batch of a worker that was killed in another process, one video at a time."""
        epoch, requests = job
        indices = [request % len(self.dataset) if isinstance(request, int) else request.index for request in requests]
        paths = [self.dataset.samples[index].path for index in indices]
        _logger.warning("a loader worker %s; its videos are read again, one by one: %s", killed.how, ", ".join(paths))
        items: list[Item] = []
        with closing(self._open_pool(_read_items, 1, prefetch=1)) as pool:
            for position, result in pool.imap([(epoch, [request]) for request in requests], window=1):
                if isinstance(result, Killed):
                    index = indices[position]
                    error = killed_error(paths[position], result.how)
                    _logger.warning("%s", error)
                    result = [Item(index=index, label=None, error=error)]
                    self._fatal[index] = result[0]
                items += result
        return self.dataset.collate(items)


def _read_batch(dataset: "AnyDataset", job: _Job) -> Any:
    return dataset.collate(_read_items(dataset, job))


def _read_items(dataset: "AnyDataset", job: _Job) -> list[Item]:
    epoch, requests = job
    dataset.set_epoch(epoch)
    return [dataset[request] if isinstance(request, int) else request for request in requests]


def _use_one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
