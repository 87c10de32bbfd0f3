"""Resizing in NumPy: the same pixels as torchvision."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from xvit.data.resizing import resize

_SIZES = st.one_of(st.integers(1, 40), st.integers(1, 700))


@settings(max_examples=150)
@given(height=_SIZES, width=_SIZES, new_height=_SIZES, new_width=_SIZES, seed=st.integers(0, 99), data=st.data())
def test_pixels_equal_those_of_torchvision(height, width, new_height, new_width, seed, data):
    """Larger or smaller along each axis, of noise and of the extreme values, which bicubic weights exceed."""
    interpolation = data.draw(st.sampled_from(["bilinear", "bicubic"]))
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    if seed % 2:
        frames = np.where(frames > 127, 255, 0).astype(np.uint8)
    pixels = frames.transpose(0, 3, 1, 2)
    settings = {"interpolation": InterpolationMode(interpolation), "antialias": True}
    expected = F.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), [new_height, new_width], **settings).numpy()
    assert np.array_equal(resize(pixels, new_height, new_width, interpolation), expected)
