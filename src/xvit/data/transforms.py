"""Clip -> views: cropping, resizing and augmentation of uint8 frames, then normalisation.

Every random draw applies to all frames of a clip.

Shapes: V views, T frames, C = 3 colours (RGB), H x W the size of the frames, S = clip_spec.image_size.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from xvit.config import AugmentConfig, ClipSpec
from xvit.data.sampling import view_start
from xvit.utils.errors import XViTError, check_range

_OPPOSITE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_SIDES = re.compile(rf"(?<![A-Za-z])({'|'.join(_OPPOSITE)})(?![A-Za-z])")  # whole words, also in moving_left


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    """Decoded frames (T, H, W, C) as a tensor (T, C, H, W) of the same memory: the fastest layout to resize."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


class TrainTransform:
    """The training transform, from frames (T, C, H, W) to pixels (T, C, S, S), both uint8.

    Scale jitter and crop, horizontal flip, AutoAugment or RandAugment, random erasing: each as `AugmentConfig` says,
    with one draw for the whole clip. Erased pixels, and pixels from outside the frame, get the mean colour, which is
    about zero after normalisation. (Noise, torchvision's other usual choice, is meant for normalised floats.)

    Draws from torch's global generator, which `VideoDataset` seeds for each sample.

    Args:
        clip_spec: its image size S, and its mean colour.
        augment: what is drawn, and how strongly.
    """

    def __init__(self, clip_spec: ClipSpec, augment: AugmentConfig) -> None:
        mean_color = [round(255 * value) for value in clip_spec.mean]
        self.clip_spec, self.augment = clip_spec, augment
        self.transforms: list[v2.Transform] = []
        if augment.auto_augment != "none":
            policy = {"auto": v2.AutoAugment, "rand": v2.RandAugment}[augment.auto_augment]
            self.transforms.append(policy(interpolation=InterpolationMode.BILINEAR, fill=mean_color))
        if augment.random_erasing:
            boxes = {"scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3)}
            self.transforms.append(v2.RandomErasing(augment.random_erasing, **boxes, value=mean_color))

    def __call__(self, frames: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Augment a clip. Also return whether it was flipped, which may change its label (`flipped_classes`)."""
        pixels = random_scaled_crop(frames, self.clip_spec, self.augment.scale_jitter)
        flipped = bool(torch.rand(1) < self.augment.horizontal_flip)
        if flipped:
            pixels = F.horizontal_flip(pixels)
        for transform in self.transforms:
            pixels = transform(pixels)
        return pixels, flipped


def random_scaled_crop(frames: torch.Tensor, clip_spec: ClipSpec, scale_jitter: tuple[float, float]) -> torch.Tensor:
    """Resize the short side to S u, with u uniform within `scale_jitter`, and crop a random S x S square.

    In fact a square of the source is cropped first and then resized, which gives the same distribution (up to rounding
    to a source pixel) for half the work. A factor u below 1 would need more than the whole frame and counts as 1: a
    square with the whole short side.
    """
    height, width = frames.shape[-2:]
    scale, top, left = torch.rand(3).tolist()
    low, high = scale_jitter
    side = max(round(min(height, width) / max(low + (high - low) * scale, 1.0)), 1)
    box = int(top * (height - side + 1)), int(left * (width - side + 1)), side, side
    size, interpolation = [clip_spec.image_size] * 2, InterpolationMode(clip_spec.interpolation)
    return F.resized_crop(frames, *box, size=size, interpolation=interpolation, antialias=True)


def flipped_classes(class_names: Sequence[str]) -> tuple[int, ...]:
    """For each class, the class of its horizontally flipped clips.

    It is the class whose name has left and right exchanged, or the class itself if there is no such name.
    """
    class_indices = {name: index for index, name in enumerate(class_names)}
    opposite_names = [_SIDES.sub(lambda match: _OPPOSITE[match[0]], name) for name in class_names]
    return tuple(class_indices.get(name, index) for index, name in enumerate(opposite_names))


def eval_views(frames: torch.Tensor, clip_spec: ClipSpec, spatial_views: int = 1) -> torch.Tensor:
    """The test views of a clip: the short side is resized to S, then squares are cropped along the longer side.

    Args:
        frames: (T, C, H, W) uint8.
        clip_spec: size and interpolation.
        spatial_views: V: 1 takes the centre; more views are evenly spaced from one end to the other.

    Returns:
        (V, T, C, S, S) uint8.

    Raises:
        XViTError: fewer than one view.
    """
    check_range("spatial_views", spatial_views, 1)
    size = clip_spec.image_size
    frames = F.resize(frames, [size], interpolation=InterpolationMode(clip_spec.interpolation), antialias=True)
    height, width = frames.shape[-2:]
    last_start = max(height, width) - size
    starts = [view_start(last_start, view, spatial_views) for view in range(spatial_views)]
    longer = -1 if width >= height else -2
    return torch.stack([frames.narrow(longer, start, size) for start in starts])


def normalize(pixels: torch.Tensor, clip_spec: ClipSpec, device: torch.device | str | None = None) -> torch.Tensor:
    """Convert uint8 pixels to normalised floats, on the model's device: a uint8 clip transfers four times faster.

    Args:
        pixels: (..., C, H, W) uint8.
        clip_spec: mean and std of RGB in [0, 1].
        device: where to move the pixels first; None leaves them where they are.

    Returns:
        (..., C, H, W) float32: (pixels / 255 - mean) / std.

    Raises:
        XViTError: pixels that are not uint8, which may be normalised already.
    """
    if pixels.dtype != torch.uint8:
        raise XViTError(f"pixels: {pixels.dtype}: expected torch.uint8; were they normalised already?")
    if device is not None:
        pixels = pixels.to(device, non_blocking=True)
    mean = torch.tensor(clip_spec.mean, device=pixels.device).view(3, 1, 1) * 255
    std = torch.tensor(clip_spec.std, device=pixels.device).view(3, 1, 1) * 255
    return pixels.float().sub_(mean).div_(std)  # in place: 20 % faster than new tensors
