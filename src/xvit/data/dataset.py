"""Samples -> batches of uint8 pixels, the same whatever the number of workers. A bad video is reported, not replaced.

Shapes: B videos, V = temporal_views x spatial_views test views, T frames, C = 3 colours, S = spec.image_size.
"""

import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from xvit.config import SINGLE_TASK, AugmentConfig, ClassNames, ClipSpec, DataConfig, as_task_dict
from xvit.data.annotations.samples import Label, Sample, remap_label
from xvit.data.decode.video import Clip, VideoInfo, read_clip
from xvit.data.sampler import EpochSampler
from xvit.data.sampling import sample_indices
from xvit.data.transforms import TrainTransform, eval_views, mirrored_classes
from xvit.utils.errors import VideoError, XViTError, check_range

_SHARED_MEMORY = Path("/dev/shm")  # Linux; elsewhere workers share batches in another way
_PREFETCH = 2  # batches a worker keeps ready


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One sample read: its pixels, or the reason why there are none.

    Args:
        index: of the sample in the data set.
        label: of the sample; of its mirror image if it was mirrored and the data set has left and right pairs.
        pixels: (T, C, S, S) in training, (V, T, C, S, S) in testing, uint8; None for a bad video.
        times: testing: seconds of the frames looked at, ascending.
        error: what is wrong with the video.
    """

    index: int
    label: Label | None
    pixels: torch.Tensor | None = None
    times: tuple[float, ...] = ()
    error: VideoError | None = None


class Batch(TypedDict):
    """What the loader gives. B counts the good videos only, and may be 0.

    `pixels` is (B, T, C, S, S) or (B, V, T, C, S, S) uint8, for `xvit.data.transforms.normalize`; `labels` (B,) int64,
    one such tensor a task where there are several, -1 for an unknown label, (B, classes) float of 0 and 1 where classes
    do not exclude each other; `indices` (B,) int64 into the samples; `times` as of each `Item`; `errors` the bad videos
    by their indices.
    """

    pixels: torch.Tensor
    labels: torch.Tensor | dict[str, torch.Tensor]
    indices: torch.Tensor
    times: list[tuple[float, ...]]
    errors: dict[int, VideoError]


class VideoDataset(Dataset[Item]):
    """Videos for training (one random clip each) or for testing (fixed views of each).

    What is random about a sample is a function of (seed, epoch, index) alone. The samples are one list, that workers
    inherit by fork; other ways of starting them copy it once a worker.

    Args:
        samples: the videos.
        spec: how a clip is made.
        augment: how training varies it; None for testing.
        seed: of the training's draws and of its order.
        temporal_views: testing: clips taken along the video.
        spatial_views: testing: crops along the longer side of each clip.
        class_names: which `augment.flip_pairs` needs, and samples with several labels.
        decode_timeout: seconds after which a video that is still being read counts as unreadable; 0 for no limit.

    Raises:
        XViTError: no samples, a number out of its range, labels of one and of several tasks mixed, `flip_pairs` without
            class names or without a pair among them.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        spec: ClipSpec,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        temporal_views: int = 1,
        spatial_views: int = 1,
        class_names: ClassNames | None = None,
        decode_timeout: float = DataConfig.decode_timeout,
    ) -> None:
        if not samples:
            raise XViTError("samples=[]: expected at least one video")
        if len({_kind(sample) for sample in samples}) > 1:
            raise XViTError("samples: some have other tasks than others; expected the same for all")
        if isinstance(samples[0].label, tuple) and not class_names:
            raise XViTError("class_names: missing: samples with several labels each need the class names")
        if spec.open_fields:
            raise XViTError(f"spec: no {', '.join(spec.open_fields)}: take `XViT.clip_spec`, or `resolve_clip_spec` it")
        for name, value in (("temporal_views", temporal_views), ("spatial_views", spatial_views)):
            check_range(name, value, 1)
        check_range("seed", seed, 0)
        check_range("decode_timeout", decode_timeout, 0)
        self.samples = samples
        self.spec = spec
        self.augment = augment
        self.seed = seed
        self.temporal_views = temporal_views
        self.spatial_views = spatial_views
        self.decode_timeout = decode_timeout
        self.class_names = class_names
        self._transform = None if augment is None else TrainTransform(spec, augment)
        self._mirrored = _mirrored(class_names) if augment is not None and augment.flip_pairs else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the draws of samples and order are for. To be called between epochs, not within."""
        self._epoch.fill_(epoch)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item's pixels."""
        size = self.spec.image_size
        clip = (self.spec.num_frames, 3, size, size)
        return clip if self.augment else (self.temporal_views * self.spatial_views, *clip)

    def __getitem__(self, index: int) -> Item:
        """Read one sample.

        Args:
            index: of the sample; in training, plus k times the number of samples for the k-th other clip of it in the
                same epoch.

        Returns:
            its pixels, or the `VideoError` that its file raised.
        """
        copy, index = divmod(index, len(self.samples))
        sample = self.samples[index]
        try:
            if self.augment is None:
                pixels, times = self._test_views(sample)
                return Item(index=index, label=sample.label, pixels=pixels, times=times)
            pixels, mirrored = self._training_clip(sample, index, copy)
        except VideoError as error:
            # A copy: the traceback of the original would keep all frames of the stack alive, with what they hold.
            return Item(index=index, label=sample.label, error=VideoError(error.path, error.reason))
        label = sample.label
        if mirrored and self._mirrored is not None:
            label = remap_label(label, self._mirrored)
        return Item(index=index, label=label, pixels=pixels)

    def _training_clip(self, sample: Sample, index: int, copy: int) -> tuple[torch.Tensor, bool]:
        assert self.augment is not None
        assert self._transform is not None
        rng = np.random.default_rng([self.seed, self.epoch, index, copy])
        torch_seed = int(rng.integers(2**63))

        def choose(info: VideoInfo) -> np.ndarray:
            first, count = _stretch(sample, info)
            return first + sample_indices(self.spec, count, rng=rng)

        largest = math.ceil(self.spec.image_size * max(self.augment.scale_jitter[1], 1))
        clip = self._read(sample, choose, short_side=largest)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.default_generator.manual_seed(torch_seed)
            return self._transform(clip.frames)

    def _test_views(self, sample: Sample) -> tuple[torch.Tensor, tuple[float, ...]]:
        def choose(info: VideoInfo) -> np.ndarray:
            first, count = _stretch(sample, info)
            views = self.temporal_views
            return first + np.concatenate(
                [sample_indices(self.spec, count, view=view, views=views) for view in range(views)]
            )

        clip = self._read(sample, choose, short_side=self.spec.image_size)
        clips = clip.frames.split(self.spec.num_frames)  # (views T, C, H, W) -> (T, C, H, W) each
        views = torch.cat([eval_views(frames, self.spec, self.spatial_views) for frames in clips])
        return views, tuple(np.unique(clip.times).tolist())

    def _read(self, sample: Sample, choose: Callable[[VideoInfo], np.ndarray], *, short_side: int) -> Clip:
        read = partial(read_clip, sample.path, choose, short_side=short_side, fps=sample.fps)
        return _in_time(read, sample.path, self.decode_timeout) if self.decode_timeout else read()

    def collate(self, items: list[Item]) -> Batch:
        """Join the good items; list the errors of the others."""
        good = [item for item in items if item.pixels is not None]
        pixels = [item.pixels for item in good]
        return Batch(
            pixels=default_collate(pixels) if pixels else torch.empty((0, *self.item_shape), dtype=torch.uint8),
            labels=self._targets([item.label for item in good]),
            indices=torch.tensor([item.index for item in good], dtype=torch.int64),
            times=[item.times for item in good],
            errors={item.index: item.error for item in items if item.error is not None},
        )

    def _targets(self, labels: list[Any]) -> torch.Tensor | dict[str, torch.Tensor]:
        kind = self.samples[0].label  # of all samples alike
        if isinstance(kind, dict):
            return {task: _numbers([label[task] for label in labels]) for task in kind}
        if isinstance(kind, tuple):
            there = torch.zeros(len(labels), len(as_task_dict(self.class_names or [])[SINGLE_TASK]))
            for row, numbers in zip(there, labels, strict=True):
                row[list(numbers)] = 1
            return there
        return _numbers(labels)


def make_loader(
    dataset: VideoDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    order: EpochSampler | None = None,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """A plain `DataLoader` of `Batch`es, its workers kept from epoch to epoch. Call `dataset.set_epoch` before each.

    Args:
        dataset: what to read.
        batch_size: videos a batch, the bad ones included.
        workers: processes, of one torch thread each; 0 reads in this one.
        order: which samples, when; all as they come by default.
        drop_last: leave out the last batch if it is not full.
        pin_memory: put batches where the way to a GPU is shortest.

    Raises:
        XViTError: a number out of its range, not enough shared memory for the workers' batches.
    """
    check_range("batch_size", batch_size, 1)
    check_range("num_workers", num_workers, 0)
    if num_workers and (lack := lacking_shared_memory(dataset, batch_size=batch_size, num_workers=num_workers)):
        raise XViTError(f"{lack}: take fewer workers or smaller batches, or give more (docker run --shm-size=8g)")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=order,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        prefetch_factor=_PREFETCH if num_workers else None,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # of its own, so that a pass over the data draws nothing from the global one
    )


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: whether and when to stop is for the main one to say, which still
    needs its workers to finish what it has begun. They end with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A main process that ends while a batch is on its way to it breaks the connection: nothing to print a traceback of.
    default = sys.excepthook
    sys.excepthook = lambda kind, error, trace: None if issubclass(kind, OSError) else default(kind, error, trace)


class _Reader:
    """A thread that reads videos, one after the other: a new one for each would keep memory of its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._calls: SimpleQueue[Callable[[], Clip]] = SimpleQueue()
        self._answers: SimpleQueue[Clip | BaseException] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def __call__(self, read: Callable[[], Clip], seconds: float) -> Clip | BaseException:
        self._calls.put(read)
        return self._answers.get(timeout=seconds)

    def _work(self) -> None:
        while True:
            try:
                self._answers.put(self._calls.get()())
            except BaseException as error:
                self._answers.put(error)


_idle: list[_Reader] = []  # to be taken out and, with its answer, put back


def _in_time(read: Callable[[], Clip], path: str, seconds: float) -> Clip:
    """What `read` returns, or a `VideoError` if it takes longer. A call that hangs in a library or in a file system
    cannot be broken off: its thread is left behind, and ends with the process.
    """
    reader = _idle.pop() if _idle else _Reader()
    if reader.process != os.getpid():  # a fork has no threads
        reader = _Reader()
    try:
        answer = reader(read, seconds)
    except Empty:
        raise VideoError(path, f"not read within {seconds:g} s (data.decode_timeout)") from None
    _idle.append(reader)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _stretch(sample: Sample, info: VideoInfo) -> tuple[int, int]:
    """First frame and number of frames of the sample's stretch of its video; at least one frame."""
    first = 0 if sample.start is None else int(np.searchsorted(info.times, sample.start))
    last = info.num_frames if sample.stop is None else int(np.searchsorted(info.times, sample.stop))
    if first >= info.num_frames:
        raise VideoError(sample.path, f"starts at {sample.start:g} s, but ends at {info.duration:g} s")
    return first, max(last - first, 1)


def _mirrored(labels: ClassNames | None) -> dict[str, tuple[int, ...]]:
    """The class of each class's mirror image, of each task."""
    if not labels:
        raise XViTError("class_names: missing: augment.flip_pairs needs the class names")
    mirrored = {task: mirrored_classes(names) for task, names in as_task_dict(labels).items()}
    if all(found == tuple(range(len(found))) for found in mirrored.values()):
        raise XViTError(
            "augment.flip_pairs=True: no class name is another's with left and right exchanged: leave it out"
        )
    return mirrored


def _kind(sample: Sample) -> Any:
    if isinstance(sample.label, dict):
        return frozenset(sample.label)
    return tuple if isinstance(sample.label, tuple) else None


def _numbers(labels: list[int | None]) -> torch.Tensor:
    return torch.tensor([-1 if label is None else label for label in labels], dtype=torch.int64)


def lacking_shared_memory(dataset: VideoDataset, *, batch_size: int, num_workers: int) -> str:
    """What is wrong with the memory through which workers hand over their batches, or nothing. Too little of it would
    end a worker with "Bus error" and no other word.
    """
    if not _SHARED_MEMORY.is_dir():
        return ""
    free = shutil.disk_usage(_SHARED_MEMORY).free
    needed = math.prod(dataset.item_shape) * batch_size * (_PREFETCH * num_workers + 1)
    if free >= needed:
        return ""
    return (
        f"{_SHARED_MEMORY}: {free / 1e6:.0f} MB free, but the batches of {num_workers} loader workers need "
        f"{needed / 1e6:.0f} MB"
    )
