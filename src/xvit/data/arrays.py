"""Test views and normalisation as in `xvit.data.transforms`, in NumPy, for programs that run without torch.

The pixels are the same, to the bit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xvit.config import ClipSpec, DataConfig
from xvit.data.annotations import Sample
from xvit.data.reading import Item, check_reading, read_test_clips
from xvit.data.resizing import resize
from xvit.data.sampling import view_start
from xvit.utils.errors import VideoError, XViTError, check_range


class ArrayDataset:
    """The test views of videos as NumPy arrays; see `xvit.data.dataset.VideoDataset` for the arguments.

    Raises:
        XViTError: no samples, an incomplete `clip_spec`, a number out of its range.
    """

    epoch = 0  # as `make_loader` expects it: all epochs are the same

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        clip_spec: ClipSpec,
        temporal_views: int = 1,
        spatial_views: int = 1,
        decode_timeout: float = DataConfig.decode_timeout,
    ) -> None:
        check_reading(samples, clip_spec, temporal_views, spatial_views, decode_timeout)
        self.samples, self.clip_spec, self.decode_timeout = samples, clip_spec, decode_timeout
        self.temporal_views, self.spatial_views = temporal_views, spatial_views

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the views are the same in every epoch."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of the pixels of one item."""
        size = self.clip_spec.image_size
        return (self.temporal_views * self.spatial_views, self.clip_spec.num_frames, 3, size, size)

    def __getitem__(self, index: int) -> Item:
        """Read one sample: its pixels (V, T, C, S, S), or the `VideoError` that reading the video raised."""
        try:
            clip = read_test_clips(self.samples[index], self.clip_spec, self.temporal_views, self.decode_timeout)
        except VideoError as error:  # a new one, without the traceback, which holds video frames in memory
            return Item(index=index, label=None, error=VideoError(error.path, error.reason))
        clips = clip.frames.reshape(self.temporal_views, -1, *clip.frames.shape[1:])
        pixels = np.concatenate([eval_views(frames, self.clip_spec, self.spatial_views) for frames in clips])
        times = tuple(np.unique(clip.times).tolist())
        return Item(index=index, label=None, pixels=pixels, times=times, warnings=clip.warnings)

    def collate(self, items: list[Item]) -> dict[str, Any]:
        """A `Batch` of arrays, without labels."""
        readable = [item for item in items if item.pixels is not None]
        pixels = np.empty((len(readable), *self.item_shape), np.uint8)
        for row, item in enumerate(readable):
            pixels[row] = item.pixels
        return {
            "pixels": pixels,
            "indices": np.array([item.index for item in readable], np.int64),
            "times": [item.times for item in readable],
            "warnings": {item.index: item.warnings for item in readable if item.warnings},
            "errors": {item.index: item.error for item in items if item.error is not None},
        }


def eval_views(frames: np.ndarray, clip_spec: ClipSpec, spatial_views: int = 1) -> np.ndarray:
    """The test views of a clip; see `xvit.data.transforms.eval_views`.

    Args:
        frames: (T, H, W, C) uint8.
        clip_spec: size and interpolation.
        spatial_views: V, crops along the longer side.

    Returns:
        (V, T, C, S, S) uint8.

    Raises:
        XViTError: fewer than one view.
    """
    check_range("spatial_views", spatial_views, 1)
    size = clip_spec.image_size
    height, width = frames.shape[1:3]
    short = min(height, width)
    new_height, new_width = size * height // short, size * width // short
    pixels = resize(frames.transpose(0, 3, 1, 2), new_height, new_width, clip_spec.interpolation)
    last_start = max(new_height, new_width) - size
    starts = [view_start(last_start, view, spatial_views) for view in range(spatial_views)]
    return np.stack([pixels[..., i : i + size] if width >= height else pixels[..., i : i + size, :] for i in starts])


def normalize(pixels: np.ndarray, clip_spec: ClipSpec) -> np.ndarray:
    """Convert uint8 pixels to normalised floats; see `xvit.data.transforms.normalize`.

    Args:
        pixels: (..., C, H, W) uint8.
        clip_spec: mean and std of RGB in [0, 1].

    Returns:
        (..., C, H, W) float32: (pixels / 255 - mean) / std.

    Raises:
        XViTError: pixels that are not uint8, which may be normalised already.
    """
    if pixels.dtype != np.uint8:
        raise XViTError(f"pixels: {pixels.dtype}: expected uint8; were they normalised already?")
    mean, std = (255 * np.array(values, np.float32).reshape(3, 1, 1) for values in (clip_spec.mean, clip_spec.std))
    return (pixels - mean) / std
