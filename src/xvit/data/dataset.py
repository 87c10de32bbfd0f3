"""A data set of videos. Its items are uint8 pixels, independent of the number of workers.

An unreadable video is reported, not replaced by another one.

Shapes: B videos, V = temporal_views x spatial_views test views, T frames, C = 3 colours, S = clip_spec.image_size.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import default_collate

from xvit.config import SINGLE_TASK, AugmentConfig, ClassNames, ClipSpec, DataConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations import Label, Sample, class_indices, remap_label
from xvit.data.decode import Clip
from xvit.data.reading import Item, check_reading, read_sample, read_test_clips
from xvit.data.sampling import sample_frames
from xvit.data.transforms import TrainTransform, as_tensor, eval_views, flipped_classes
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.text import name_some


class Batch(TypedDict):
    """What the loader yields. B counts the readable videos only, and may be 0.

    Args:
        pixels: (B, T, C, S, S) or (B, V, T, C, S, S) uint8; `xvit.data.transforms.normalize` makes model inputs
            of them.
        labels: (B,) int64, -1 for an unknown label; (B, classes) float of 0 and 1 for multi-label samples; for several
            tasks a dict of one (B,) tensor per task.
        indices: (B,) int64, indices of the samples.
        times: `Item.times` of each video.
        warnings: `Item.warnings` of the readable videos that have any, by sample index.
        errors: the errors of the unreadable videos, by sample index.
    """

    pixels: torch.Tensor
    labels: torch.Tensor | dict[str, torch.Tensor]
    indices: torch.Tensor
    times: list[tuple[float, ...]]
    warnings: dict[int, tuple[str, ...]]
    errors: dict[int, VideoError]


class VideoDataset:
    """Videos for training (one random clip of each) or for testing (fixed views of each).

    All randomness is a function of (seed, epoch, sample index). Workers started by fork share the list of samples with
    the main process; workers started in other ways copy it.

    Args:
        clip_spec: how a clip is sampled and resized.
        augment: augmentation of training clips; None for testing.
        seed: seed of the training's random draws and of the order of the samples.
        temporal_views: for testing: number of clips along the video.
        spatial_views: for testing: number of crops along the longer side of each clip.
        class_names: needed for multi-label samples; `augment.flip_pairs` finds pairs among them.
        decode_timeout: seconds after which a video that is still being read counts as unreadable; 0 for no limit.

    Attributes:
        epoch: set by `set_epoch`.

    Raises:
        XViTError: no samples; a number out of its range; samples with different tasks; an incomplete `clip_spec`;
            multi-label samples without class names.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        clip_spec: ClipSpec,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        temporal_views: int = 1,
        spatial_views: int = 1,
        class_names: ClassNames | None = None,
        decode_timeout: float = DataConfig.decode_timeout,
    ) -> None:
        check_reading(samples, clip_spec, temporal_views, spatial_views, decode_timeout)
        if len({_label_type(sample) for sample in samples}) > 1:
            raise XViTError("samples: expected the same tasks for all samples, but they differ")
        if isinstance(samples[0].label, tuple) and not class_names:
            raise XViTError("class_names: missing: multi-label samples need the class names")
        check_range("seed", seed, 0)
        self.samples, self.clip_spec, self.augment, self.seed = samples, clip_spec, augment, seed
        self.temporal_views, self.spatial_views = temporal_views, spatial_views
        self.class_names, self.decode_timeout = class_names, decode_timeout
        self._transform = TrainTransform(clip_spec, augment) if augment else None
        self._flipped_classes: dict[str, tuple[int, ...]] = {}
        if augment and augment.flip_pairs and class_names:
            self._flipped_classes = _map_flipped_classes(class_names)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which seeds the clips and their order. Call it between epochs, not within one."""
        self.epoch = epoch

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of the pixels of one item."""
        size = self.clip_spec.image_size
        clip = (self.clip_spec.num_frames, 3, size, size)
        return clip if self.augment else (self.temporal_views * self.spatial_views, *clip)

    def __getitem__(self, index: int) -> Item:
        """Read one sample: its pixels, or the `VideoError` that reading the video raised.

        Args:
            index: index of the sample; for training, adding k times the number of samples gives the k-th additional
                clip of the same sample in the same epoch.
        """
        repetition, index = divmod(index, len(self.samples))
        sample = self.samples[index]
        label = sample.label
        try:
            if self._transform is None:
                pixels, clip = self._read_test_views(sample)
                times = tuple(np.unique(clip.times).tolist())
                return Item(index=index, label=label, pixels=pixels, times=times, warnings=clip.warnings)
            rng = np.random.default_rng([self.seed, self.epoch, index, repetition])
            pixels, flipped, warnings = self._read_training_clip(sample, self._transform, rng)
        except VideoError as error:
            # A new error: the traceback of the original would keep the stack and its video frames in memory.
            return Item(index=index, label=label, error=VideoError(error.path, error.reason))
        if flipped and self._flipped_classes:
            label = remap_label(label, self._flipped_classes)
        return Item(index=index, label=label, pixels=pixels, warnings=warnings)

    def _read_training_clip(
        self, sample: Sample, transform: TrainTransform, rng: np.random.Generator
    ) -> tuple[torch.Tensor, bool, tuple[str, ...]]:
        """Pixels (T, C, S, S), whether they were flipped, and the warnings about the video."""
        torch_seed = int(rng.integers(2**63))
        short_side = math.ceil(self.clip_spec.image_size * max(transform.augment.scale_jitter[1], 1))
        choose_frames = partial(sample_frames, self.clip_spec, rng=rng)
        clip = read_sample(sample, self.clip_spec, choose_frames, short_side=short_side, timeout=self.decode_timeout)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.default_generator.manual_seed(torch_seed)
            return *transform(as_tensor(clip.frames)), clip.warnings

    def _read_test_views(self, sample: Sample) -> tuple[torch.Tensor, Clip]:
        """Pixels (V, T, C, S, S), and the frames they are made of."""
        clip = read_test_clips(sample, self.clip_spec, self.temporal_views, self.decode_timeout)
        clips = as_tensor(clip.frames).split(self.clip_spec.num_frames)  # (temporal_views T, ...) -> (T, ...) each
        views = torch.cat([eval_views(frames, self.clip_spec, self.spatial_views) for frames in clips])
        return views, clip

    def collate(self, items: list[Item]) -> Batch:
        """Collate the readable items and list the errors of the others."""
        readable = [item for item in items if item.pixels is not None]
        pixels = [item.pixels for item in readable]
        return Batch(
            pixels=default_collate(pixels) if pixels else torch.empty((0, *self.item_shape), dtype=torch.uint8),
            labels=self._collate_labels([item.label for item in readable]),
            indices=torch.tensor([item.index for item in readable], dtype=torch.int64),
            times=[item.times for item in readable],
            warnings={item.index: item.warnings for item in readable if item.warnings},
            errors={item.index: item.error for item in items if item.error is not None},
        )

    def _collate_labels(self, labels: list[Label | None]) -> torch.Tensor | dict[str, torch.Tensor]:
        first = self.samples[0].label  # all samples have labels of the same type
        if isinstance(first, tuple):
            targets = torch.zeros(len(labels), len(as_task_dict(self.class_names or [])[SINGLE_TASK]))
            for row, label in zip(targets, labels, strict=True):
                row[list(class_indices(label))] = 1
            return targets
        indices = {
            task: torch.tensor([next(iter(class_indices(label, task)), -1) for label in labels], dtype=torch.int64)
            for task in as_task_dict(first)
        }
        return unwrap_single_task(indices)


def describe_flip_pairs(augment: AugmentConfig, class_names: ClassNames) -> str:
    """The classes that mirrored clips exchange, for a message; empty if there are none."""
    if not (augment.flip_pairs and augment.horizontal_flip):
        return ""
    pairs = [
        f"{names[index]} and {names[other]}"
        for names in as_task_dict(class_names).values()
        for index, other in enumerate(flipped_classes(names))
        if index < other
    ]
    return f"mirrored clips count as the other class of a pair: {name_some(pairs, 10)}" if pairs else ""


def _map_flipped_classes(class_names: ClassNames) -> dict[str, tuple[int, ...]]:
    """For each task, the class of each class's mirror image."""
    return {task: flipped_classes(names) for task, names in as_task_dict(class_names).items()}


def _label_type(sample: Sample) -> type | frozenset[str] | None:
    if isinstance(sample.label, dict):
        return frozenset(sample.label)
    return tuple if isinstance(sample.label, tuple) else None
