"""Classes and times that are no event. Motion is measured against naive loops, on movements and on still pictures."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.data.synthetic.motion import CLASSES, render_clip
from xvit.inference.gating import MOTION_THRESHOLD, MotionMeter, resolve_ignored
from xvit.utils.errors import XViTError


def measure(frames: np.ndarray, num_frames: int = 8) -> np.ndarray:
    """Motion (n,) at each of the frames (n, H, W, 3)."""
    return np.array(MotionMeter(num_frames).push(frames.transpose(0, 3, 1, 2)))


def add_noise(frames: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """The frames with the noise of a sensor: independent in each pixel and channel."""
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.rint(frames + noise).clip(0, 255).astype(np.uint8)


def naive_motion(window: np.ndarray) -> float:
    """Motion in the grey frames (T, S, S) of a clip."""
    size = window.shape[-1]
    cells = min(24, size // 4)
    side = size / cells
    bounds = [(int(i * side), int(np.ceil((i + 1) * side))) for i in range(cells)]
    changes = []
    for top, bottom in bounds:
        for left, right in bounds:
            averages = [frame[top:bottom, left:right].mean() for frame in window]
            changes.append(max(averages) - min(averages))
    noise = []
    for before, after in pairwise(window):
        d = after - before
        corners = [(y, x) for y in range(size - 1) for x in range(size - 1)]
        mixed = [abs(d[y + 1, x + 1] - d[y + 1, x] - d[y, x + 1] + d[y, x]) for y, x in corners]
        noise.append(min(1.4826 * np.median(mixed) / 8**0.5, 12))
    return max(max(changes) - 6 * max(noise) / side, 0)


@settings(max_examples=20, deadline=None)
@given(size=st.sampled_from([4, 9, 16]), num_frames=st.integers(2, 4), parts=st.lists(st.integers(1, 3), max_size=3))
def test_motion_is_the_largest_change_of_a_cell_less_the_noise(size, num_frames, parts):
    count = sum(parts)
    rng = np.random.default_rng(size + count)
    frames = (rng.normal(100, 30, (count, 1, 1, 1)) + rng.normal(0, 5, (count, 3, size, size))).clip(0, 255)
    views = frames.astype(np.uint8)
    meter = MotionMeter(num_frames)
    motion, start = [], 0
    for part in parts:  # in pieces of any length
        motion += meter.push(views[start : start + part])
        start += part
    grey = views.mean(axis=1)
    windows = [grey[max(index - num_frames + 1, 0) : index + 1] for index in range(count)]
    expected = [naive_motion(window) if len(window) == num_frames else np.inf for window in windows]
    assert motion == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_single_frames_never_show_that_nothing_moves():
    frames = np.zeros((3, 3, 1, 1), np.uint8)
    assert MotionMeter(1).push(frames) == [np.inf] * 3
    assert MotionMeter(2).push(frames) == [np.inf, 0, 0]


@pytest.mark.parametrize("noise", [0, 6])
@pytest.mark.parametrize("label", CLASSES)
def test_movements_are_far_above_the_threshold(label, noise):
    for seed in range(4):
        frames = add_noise(render_clip(label, np.random.default_rng(seed)), noise)
        assert measure(frames)[7:].min() > 4 * MOTION_THRESHOLD


@pytest.mark.parametrize("label", ["appearing", "disappearing"])
def test_slow_fades_are_movements(label):
    """A fade over 16 seconds, as slow as one in which a clip shows an eighth of the change."""
    for seed in range(4):
        frames = render_clip(label, np.random.default_rng(seed)).repeat(8, axis=0)
        moving = measure(frames) >= MOTION_THRESHOLD
        assert moving[24:-24].mean() > 0.8  # but for the pauses at the ends


@pytest.mark.parametrize("noise", [0, 2, 5, 10])
@pytest.mark.parametrize("size", [48, 112, 224])
def test_still_pictures_have_no_motion_whatever_the_noise_of_the_sensor(size, noise):
    rng = np.random.default_rng(size)
    pictures = {
        "blank": np.full((size, size, 3), 128),
        "dark": np.full((size, size, 3), 16),
        "scene": np.kron(rng.integers(20, 236, (size // 8, size // 8, 3)), np.ones((8, 8, 1), int)),
    }
    for name, picture in pictures.items():
        frames = add_noise(np.repeat(picture[None], 24, axis=0), noise)
        assert measure(frames)[7:].max() < MOTION_THRESHOLD, name


def test_strong_noise_is_not_that_of_a_sensor():
    """A picture that is nothing but noise is for a class of its own; a fine texture that moves looks the same."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 48, 48, 1), dtype=np.uint8).repeat(3, axis=-1)
    assert measure(frames).min() > MOTION_THRESHOLD


def test_small_things_that_move_are_seen():
    """A person of 8 x 16 pixels who walks through a view of 224, with noise."""
    frames = np.full((8, 224, 224, 3), 90)
    for index in range(8):
        frames[index, 100:116, 40 + 4 * index : 48 + 4 * index] = 140
    assert measure(add_noise(frames, 3))[-1] > 2 * MOTION_THRESHOLD


def test_ignored_classes():
    names = ["left", "background", "right"]
    assert resolve_ignored(names, None) == ("background",)
    assert resolve_ignored(["left", "right"], None) == ()
    assert resolve_ignored(names, []) == ()
    assert resolve_ignored(names, ["right", "left", "right"]) == ("right", "left")
    assert resolve_ignored({"verb": ["push"], "noun": ["door", "background"]}, ["door"]) == ("door",)
    assert resolve_ignored({"verb": ["push"], "noun": ["door", "background"]}, None) == ("background",)
    with pytest.raises(XViTError, match=r'class "lefd" is not one of the 3 classes of the model\. Did you mean "left"'):
        resolve_ignored(names, ["lefd"])
