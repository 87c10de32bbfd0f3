"""The data loader: batches of a `VideoDataset`, read by worker processes."""

import math
import shutil
import signal
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from xvit.data.dataset import Item, VideoDataset
from xvit.data.sampler import EpochSampler
from xvit.utils.errors import XViTError, check_range

SHARED_MEMORY = Path("/dev/shm")  # Linux; on other systems workers pass batches in other ways
PREFETCH_FACTOR = 2  # batches that each worker reads ahead


def make_loader(
    dataset: VideoDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    sampler: EpochSampler | None = None,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """A `DataLoader` that yields `Batch`es and keeps its workers between epochs.

    Call `dataset.set_epoch` before each epoch.

    Args:
        batch_size: videos per batch, including unreadable ones.
        num_workers: worker processes, each with one torch thread; 0 reads in the main process.
        sampler: which samples an epoch reads, in which order; None reads all of them in their order.
        drop_last: leave out the last batch if it is not full.
        pin_memory: copy batches to pinned memory, for faster transfer to a GPU.

    Raises:
        XViTError: a number out of its range; not enough shared memory for the batches of the workers.
    """
    check_range("batch_size", batch_size, 1)
    check_range("num_workers", num_workers, 0)
    shortage = num_workers and shared_memory_shortage(dataset, batch_size=batch_size, num_workers=num_workers)
    if shortage:
        raise XViTError(f"{shortage}: use fewer workers or a smaller batch, or add memory (docker run --shm-size=8g)")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        prefetch_factor=PREFETCH_FACTOR if num_workers else None,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # a separate one: iterating must not draw from torch's global generator
    )


def shared_memory_shortage(dataset: VideoDataset, *, batch_size: int, num_workers: int) -> str:
    """An error message if the workers' batches do not fit in shared memory, else "". (Workers die with "Bus error".)"""
    if not SHARED_MEMORY.is_dir():
        return ""
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = math.prod(dataset.item_shape) * batch_size * (PREFETCH_FACTOR * num_workers + 1)
    if free >= needed:
        return ""
    batches = f"the batches of {num_workers} loader workers need {needed / 1e6:.0f} MB"
    return f"{SHARED_MEMORY}: {free / 1e6:.0f} MB free, but {batches}"


def _init_worker(worker_id: int) -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal: the main process still needs the current batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If the main process ends while a worker sends it a batch, the connection breaks: print no traceback for that.
    default_hook = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if issubclass(kind, OSError) else default_hook(kind, error, trace)
