"""Preprocessing as a part of an exported program, which then takes decoded frames of any size and gives scores.

    frames (B, T, H, W, 3) uint8 ─▶ resize, antialiased ─▶ centre square ─▶ normalise ─▶ model ─▶ softmax or sigmoid
                                                              and, of a calibrated model, ─▶ energy - threshold

The resize is two matrix products, with weights that the program computes from H and W. Its pixels equal those of
`xvit.data.transforms.eval_views`, and so they do in each runtime. The resize operations of the runtimes do not: ONNX
Runtime rounds otherwise, and OpenVINO reads ONNX's antialiased resize as one without antialiasing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xvit.config import Calibration, ClipSpec
from xvit.data.resizing import MAX_WEIGHT_BITS, WEIGHT_LIMIT

Size = Any  # an int, or a torch.SymInt: of a dynamic axis while the program is traced
_RADIUS = {"bilinear": 1, "bicubic": 2}  # of the kernel, in pixels


class RawFramesProgram(nn.Module):
    """A program for raw frames (B, T, H, W, 3), uint8 RGB. Returns the scores of the classes per task.

    Of a calibrated model it then returns the margin (B,) per task: below 0, none of the classes.

    Args:
        program: returns logits per task for normalised clips (B, T, C, S, S), float32.
        clip_spec: how frames become such clips.
        multi_label: scores are sigmoids, not a softmax.
        calibration: of each task, in the order of the logits; none if the model is not calibrated.
    """

    def __init__(
        self, program: nn.Module, clip_spec: ClipSpec, *, multi_label: bool, calibration: Sequence[Calibration]
    ) -> None:
        super().__init__()
        self.program, self.clip_spec, self.multi_label = program, clip_spec, multi_label
        self.calibration = calibration

    def forward(self, frames: Tensor) -> list[Tensor]:
        B, T = frames.shape[:2]
        pixels = centre_squares(frames.flatten(0, 1), self.clip_spec)  # (B T, 3, S, S)
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (self.clip_spec.mean, self.clip_spec.std))
        logits = self.program(((pixels - mean) / std).unflatten(0, (B, T)))
        if not self.calibration:
            return [x.sigmoid() if self.multi_label else x.softmax(-1) for x in logits]
        tasks = list(zip(logits, self.calibration, strict=True))
        scores = [(x / task.temperature).softmax(-1) for x, task in tasks]
        energies = [(x - x.mean(-1, keepdim=True)).logsumexp(-1) for x in logits]
        return [*scores, *(x - task.energy_threshold for x, (_, task) in zip(energies, tasks, strict=True))]


def example_frames(pixel_values: Tensor) -> Tensor:
    """Raw frames for tracing, of no size that the program could take for a constant; as many as those of a clip."""
    return torch.zeros(*pixel_values.shape[:2], 50, 70, 3, dtype=torch.uint8)


def centre_squares(frames: Tensor, clip_spec: ClipSpec) -> Tensor:
    """The centre squares of frames whose short side is resized to S; see `xvit.data.transforms.eval_views`.

    Args:
        frames: (N, H, W, C) uint8.
        clip_spec: size and interpolation.

    Returns:
        (N, C, S, S), integers in float32.
    """
    height, width = frames.shape[1:3]
    short = torch.sym_min(height, width)
    column_weights, column_unit, left, right = _axis_weights(width, short, clip_spec)
    row_weights, row_unit, top, bottom = _axis_weights(height, short, clip_spec)
    pixels = frames[:, top:bottom, left:right].permute(0, 3, 1, 2).float()  # (N, C, h, w): what the squares are made of
    pixels = _round(pixels @ column_weights / column_unit)  # (N, C, h, S)
    return _round(row_weights.T @ pixels / row_unit)


def _round(pixels: Tensor) -> Tensor:
    return torch.floor(pixels + 0.5).clamp(0, 255)


def _axis_weights(size: Size, short: Size, clip_spec: ClipSpec) -> tuple[Tensor, Tensor, Size, Size]:
    """The weights along an axis, as `xvit.data.resizing.resize_weights` gives them, for the S new pixels in the centre.

    Distances are computed in integers: OpenVINO has no float64.

    Returns:
        Weights of the pixels [first, end) (end - first, S); the power of two by which they are scaled; first; end.
    """
    S, interpolation = clip_spec.image_size, clip_spec.interpolation
    new_size = S * size // short
    start = (new_size - S) // 2
    reach = _RADIUS[interpolation] * ((size + new_size - 1) // new_size)  # pixels on each side of a new pixel
    stretch = torch.sym_max(size, new_size)

    def weigh(pixel: Tensor, new_pixel: Tensor) -> Tensor:
        # |pixel + 1/2 - (new_pixel + 1/2) size / new_size|, relative to the stretched kernel
        distance = ((2 * pixel + 1) * new_size - (2 * new_pixel + 1) * size).abs()
        return _kernel(distance.double() / (2 * stretch), interpolation)

    # The largest weight decides how all are rounded. It may be outside the centre: (new_size, 2 reach + 1) of them.
    new_pixel = torch.arange(new_size)[:, None]
    pixel = (2 * new_pixel + 1) * size // (2 * new_size) + torch.arange(-reach, reach + 1)
    weights = weigh(pixel, new_pixel) * ((pixel >= 0) & (pixel < size))
    largest = (weights / weights.sum(dim=1, keepdim=True)).max()
    powers = (2 ** torch.arange(1, MAX_WEIGHT_BITS + 1)).double()
    unit = torch.where(torch.floor(largest * powers + 0.5) < WEIGHT_LIMIT, powers, 1.0).max()

    first = torch.sym_max(start * size // new_size - reach, 0)
    end = torch.sym_min((start + S) * size // new_size + reach + 1, size)
    weights = weigh(torch.arange(first, end)[:, None], torch.arange(start, start + S))
    weights = weights / weights.sum(dim=0)
    weights = weights.sign() * torch.floor(weights.abs() * unit + 0.5)
    return weights.float(), unit.float(), first, end


def _kernel(x: Tensor, interpolation: str) -> Tensor:
    """The weight, before normalisation, of a pixel at a distance x >= 0; bicubic with a = -0.5."""
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, torch.where(x < 2, far, 0.0))
