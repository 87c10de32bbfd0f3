"""Clip -> views: cropping, resizing and augmentation of uint8 frames, then normalisation.

Every random draw applies to all frames of a clip.

Shapes: V views, T frames, C = 3 colours (RGB), H x W the size of the frames, S = clip_spec.image_size.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from xvit.config import AugmentConfig, ClipSpec
from xvit.utils.errors import XViTError, check_range

_OPPOSITE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_SIDES = re.compile(rf"(?<![A-Za-z])({'|'.join(_OPPOSITE)})(?![A-Za-z])")  # whole words, also in moving_left


class RandomScaledCrop(v2.Transform):
    """A random square crop, resized to `size`. Same as: resize the short side to size * u, u uniform; crop `size`.

    Cropping the source first and then resizing the crop gives the same distribution of squares (up to rounding to a
    source pixel) for half the work. A factor u below 1 would need more than the whole frame and counts as 1: a square
    with the whole short side.

    Draws from torch's global generator, like torchvision's transforms.

    Args:
        size: S, in pixels.
        scale_jitter: smallest and largest u.
        interpolation: interpolation of the antialiased resizing.
    """

    def __init__(self, size: int, *, scale_jitter: tuple[float, float], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.scale_jitter = scale_jitter
        self.interpolation = interpolation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        low, high = self.scale_jitter
        scale, top, left = torch.rand(3).tolist()
        side = max(round(min(height, width) / max(low + (high - low) * scale, 1.0)), 1)
        return {
            "top": int(top * (height - side + 1)),
            "left": int(left * (width - side + 1)),
            "height": side,
            "width": side,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.resized_crop(
            inpt, **params, size=[self.size, self.size], interpolation=self.interpolation, antialias=True
        )


class TrainTransform:
    """The training transform, from uint8 frames (T, C, H, W) to (T, C, S, S).

    Scale jitter and crop, horizontal flip, AutoAugment or RandAugment, random erasing: each as `AugmentConfig` says,
    with one draw for the whole clip. Erased pixels, and pixels from outside the frame, get the mean colour, which is
    about zero after normalisation. (Noise, torchvision's other usual choice, is meant for normalised floats.)

    Draws from torch's global generator, which `VideoDataset` seeds for each sample.

    Args:
        clip_spec: size, interpolation and mean.
        augment: which augmentations, and how strong.
    """

    def __init__(self, clip_spec: ClipSpec, augment: AugmentConfig) -> None:
        mean_color = [round(255 * value) for value in clip_spec.mean]
        self.crop = RandomScaledCrop(
            clip_spec.image_size, scale_jitter=augment.scale_jitter, interpolation=_interpolation(clip_spec)
        )
        self.flip_probability = augment.horizontal_flip
        self.augmentations: list[v2.Transform] = []
        if augment.auto_augment != "none":
            policy = {"auto": v2.AutoAugment, "rand": v2.RandAugment}[augment.auto_augment]
            self.augmentations.append(policy(interpolation=InterpolationMode.BILINEAR, fill=mean_color))
        if augment.random_erasing:
            self.augmentations.append(
                v2.RandomErasing(augment.random_erasing, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value=mean_color)
            )

    def __call__(self, frames: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Augment a clip.

        Args:
            frames: (T, C, H, W) uint8.

        Returns:
            (T, C, S, S) uint8, and whether the clip was flipped, which may change its label (`flipped_classes`).
        """
        pixels = self.crop(frames)
        flipped = bool(torch.rand(1) < self.flip_probability)
        if flipped:
            pixels = F.horizontal_flip(pixels)
        for augmentation in self.augmentations:
            pixels = augmentation(pixels)
        return pixels, flipped


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
    frames = F.resize(frames, [size], interpolation=_interpolation(clip_spec), antialias=True)
    height, width = frames.shape[-2:]
    last_start = max(height, width) - size
    if spatial_views == 1:
        starts = [last_start // 2]
    else:
        starts = [last_start * view // (spatial_views - 1) for view in range(spatial_views)]
    if width >= height:
        return torch.stack([frames[..., start : start + size] for start in starts])
    return torch.stack([frames[..., start : start + size, :] for start in starts])


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


def _interpolation(clip_spec: ClipSpec) -> InterpolationMode:
    return InterpolationMode(clip_spec.interpolation)
