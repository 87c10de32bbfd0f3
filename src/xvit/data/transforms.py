"""Clip -> views: cropping, resizing and training's changes on uint8 frames, one draw for all; normalisation last.

Shapes: V views, T frames, C = 3 colours (RGB), H x W the picture, S = spec.image_size.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from xvit.config import AugmentConfig, ClipSpec
from xvit.utils.errors import XViTError, check_range

_OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
_SIDES = re.compile(rf"(?<![A-Za-z])({'|'.join(_OTHER_SIDE)})(?![A-Za-z])")  # words, also of moving_left


class RandomScaledCrop(v2.Transform):
    """A random square of a clip, resized to `size`: short side to size * u, u uniform, then a random crop of `size`.

    The crop comes first, at its place in the source, and is then resized: the same squares in distribution (up to
    rounding to a pixel of the source), for half of the work. A factor below 1 would need more than the picture has and
    counts as 1: the square of the whole short side.

    Draws from torch's global generator, as torchvision's transforms do.

    Args:
        size: S, pixels.
        scale_jitter: smallest and largest u.
        interpolation: of the resizing, which is antialiased.
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
    """Training's way from uint8 frames (T, C, H, W) to (T, C, S, S): scale jitter and crop, mirroring, a random change
    of colours or geometry, erasing; each as `DataConfig` says, and drawn once for the whole clip.

    What is erased, or comes in from outside the picture, has the mean colour: about zero once normalised, as if nothing
    were there. (torchvision's noise, the other usual choice, is meant for normalised floats.)

    Randomness comes from torch's global generator: seed it (`VideoDataset` does, for each sample).

    Args:
        spec: size, interpolation and mean.
        data: what is varied, and how much.
    """

    def __init__(self, spec: ClipSpec, augment: AugmentConfig) -> None:
        nothing = [round(255 * value) for value in spec.mean]
        self.crop = RandomScaledCrop(
            spec.image_size, scale_jitter=augment.scale_jitter, interpolation=_interpolation(spec)
        )
        self.flip_probability = augment.horizontal_flip
        self.changes: list[v2.Transform] = []
        if augment.auto_augment != "none":
            policy = {"auto": v2.AutoAugment, "rand": v2.RandAugment}[augment.auto_augment]
            self.changes.append(policy(interpolation=InterpolationMode.BILINEAR, fill=nothing))
        if augment.random_erasing:
            self.changes.append(
                v2.RandomErasing(augment.random_erasing, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value=nothing)
            )

    def __call__(self, frames: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Vary a clip.

        Args:
            frames: (T, C, H, W) uint8.

        Returns:
            (T, C, S, S) uint8, and whether they are mirrored, which may change the label (`mirrored_classes`).
        """
        pixels = self.crop(frames)
        mirrored = bool(torch.rand(1) < self.flip_probability)
        if mirrored:
            pixels = F.horizontal_flip(pixels)
        for change in self.changes:
            pixels = change(pixels)
        return pixels, mirrored


def mirrored_classes(names: Sequence[str]) -> tuple[int, ...]:
    """The class of each class's mirrored clips: that named with left for right and right for left, else its own.

    Args:
        names: of the classes.
    """
    places = {name: place for place, name in enumerate(names)}
    swapped = [_SIDES.sub(lambda found: _OTHER_SIDE[found[0]], name) for name in names]
    return tuple(places.get(name, place) for place, name in enumerate(swapped))


def eval_views(frames: torch.Tensor, spec: ClipSpec, spatial_views: int = 1) -> torch.Tensor:
    """The test views of a clip: short side to S, then squares along the longer side.

    Args:
        frames: (T, C, H, W) uint8.
        spec: size and interpolation.
        spatial_views: V: 1 takes the centre, more are spread evenly from one end to the other.

    Returns:
        (V, T, C, S, S) uint8.

    Raises:
        XViTError: fewer than one view.
    """
    check_range("spatial_views", spatial_views, 1)
    size = spec.image_size
    frames = F.resize(frames, [size], interpolation=_interpolation(spec), antialias=True)
    height, width = frames.shape[-2:]
    room = max(height, width) - size
    starts = (
        [room // 2] if spatial_views == 1 else [room * view // (spatial_views - 1) for view in range(spatial_views)]
    )
    if width >= height:
        return torch.stack([frames[..., start : start + size] for start in starts])
    return torch.stack([frames[..., start : start + size, :] for start in starts])


def normalize(pixels: torch.Tensor, spec: ClipSpec, device: torch.device | str | None = None) -> torch.Tensor:
    """The last step, best done on the model's device: a clip is four times smaller as uint8.

    Args:
        pixels: (..., C, H, W) uint8.
        spec: mean and std, of RGB in [0, 1].
        device: moved there first; None stays.

    Returns:
        (..., C, H, W) float32: (pixels / 255 - mean) / std.

    Raises:
        XViTError: pixels that are not uint8, which may be normalised already.
    """
    if pixels.dtype != torch.uint8:
        raise XViTError(f"pixels of {pixels.dtype}: expected torch.uint8")
    if device is not None:
        pixels = pixels.to(device, non_blocking=True)
    mean = torch.tensor(spec.mean, device=pixels.device).view(3, 1, 1) * 255
    std = torch.tensor(spec.std, device=pixels.device).view(3, 1, 1) * 255
    return pixels.float().sub_(mean).div_(std)  # in place after the conversion: a fifth quicker than into new tensors


def _interpolation(spec: ClipSpec) -> InterpolationMode:
    return InterpolationMode(spec.interpolation)
