"""Antialiased resizing in NumPy, bit for bit as torchvision resizes uint8 frames on x86-64.

torch rounds the weights of the pixels to as many bits as fit in 16-bit integers; the frame is resized along its rows,
rounded to uint8, and then resized along its columns. Pillow does the same with 22 bits: few of its pixels differ, by
one grey level, or by two with bicubic interpolation.
"""

import numpy as np

MAX_WEIGHT_BITS = 22
WEIGHT_LIMIT = 2**15  # above all weights
_BLOCK = 64  # new pixels that are computed at a time
_EXACT_FLOAT32 = 2**24  # integers below are exact in float32


def resize(pixels: np.ndarray, new_height: int, new_width: int, interpolation: str) -> np.ndarray:
    """Resize frames, as `torchvision.transforms.v2.functional.resize` with antialiasing does.

    Args:
        pixels: (..., H, W) uint8.
        new_height, new_width: H' and W'.
        interpolation: bilinear or bicubic.

    Returns:
        (..., H', W') uint8.
    """
    height, width = pixels.shape[-2:]
    if new_width != width:
        pixels = _resize_last_axis(np.ascontiguousarray(pixels), new_width, interpolation)
    if new_height != height:
        pixels = _resize_last_axis(np.ascontiguousarray(pixels.swapaxes(-1, -2)), new_height, interpolation)
        pixels = pixels.swapaxes(-1, -2)
    return pixels


def _resize_last_axis(pixels: np.ndarray, new_size: int, interpolation: str) -> np.ndarray:
    weights, bits = resize_weights(pixels.shape[-1], new_size, interpolation)
    rows = pixels.reshape(-1, pixels.shape[-1]).astype(weights.dtype)  # (N, size)
    resized = np.empty((len(rows), new_size), np.uint8)
    for start in range(0, new_size, _BLOCK):
        block = slice(start, start + _BLOCK)
        used = np.flatnonzero(weights[:, block].any(axis=1))  # near each other: a block needs few of the pixels
        span = slice(used[0], used[-1] + 1)
        sums = rows[:, span] @ weights[span, block]
        sums *= 2.0**-bits
        sums += 0.5  # halves are rounded up
        resized[:, block] = np.clip(sums, 0, 255, out=sums)
    return resized.reshape(*pixels.shape[:-1], new_size)


def resize_weights(size: int, new_size: int, interpolation: str) -> tuple[np.ndarray, int]:
    """The weights of the pixels along one axis.

    Returns:
        Weights (size, new_size), integers in floats of a type in which sums of weighted pixels are exact; the number of
        bits by which they are scaled: those of one new pixel sum to about 2^bits.
    """
    scale = size / new_size
    centers = (np.arange(new_size) + 0.5) * scale
    weights = kernel(np.abs(np.arange(size)[:, None] + 0.5 - centers) / max(scale, 1), interpolation)
    weights /= weights.sum(axis=0)
    bits = 0
    while bits < MAX_WEIGHT_BITS and int(weights.max() * 2 ** (bits + 1) + 0.5) < WEIGHT_LIMIT:
        bits += 1
    weights = np.trunc(weights * 2**bits + np.copysign(0.5, weights))
    largest_sum = 255 * np.abs(weights).sum(axis=0).max()
    return weights.astype(np.float32 if largest_sum < _EXACT_FLOAT32 else np.float64), bits


def kernel(x: np.ndarray, interpolation: str) -> np.ndarray:
    """The weight, before normalisation, of a pixel at a distance x >= 0; bicubic with a = -0.5."""
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, far, 0))
