"""Pictures of explanations."""

import av
import numpy as np
import pytest
from PIL import Image

from helpers.images import color_fraction, read_png
from xvit.utils.errors import XViTError
from xvit.visualize.explanation import AGAINST_COLOR, FOR_COLOR, overlay, plot_explanation, write_explanation_video

FRAMES = np.full((3, 40, 60, 3), 100, np.uint8)


def one_patch(value: float) -> np.ndarray:
    relevance = np.zeros((3, 2, 3), np.float32)
    relevance[1, 0, 2] = value
    return relevance


@pytest.mark.parametrize(("value", "channel"), [(2.0, 0), (-2.0, 2)])
def test_only_the_relevant_patch_is_coloured(value, channel):
    shown = overlay(FRAMES, one_patch(value))
    changed = (shown != FRAMES).any(axis=-1)
    expected = np.zeros_like(changed)
    expected[1, :20, 40:] = True
    np.testing.assert_array_equal(changed, expected)
    assert shown[1, 0, 59].argmax() == channel  # orange for the class, blue against it


def test_colours_show_the_share_of_the_greatest_relevance():
    relevance = one_patch(4.0)
    relevance[0, 1, 0] = 1.0
    shown = overlay(FRAMES, relevance).astype(int)
    weak, strong = abs(shown[0, 39, 0] - 100).sum(), abs(shown[1, 0, 59] - 100).sum()
    assert weak == pytest.approx(strong / 2, abs=2)  # opacity grows with the square root
    np.testing.assert_array_equal(overlay(FRAMES, np.zeros((3, 2, 3))), FRAMES)


def test_rounding_is_not_drawn_as_a_result(tmp_path):
    rounding = np.random.default_rng(0).normal(0, 1e-6, (3, 2, 3))
    assert abs(overlay(FRAMES, rounding).astype(int) - FRAMES).max() < 5
    plot_explanation(FRAMES, rounding, [0.0, 0.5, 1.0], tmp_path / "a.png", title="moving_left")
    image = read_png(tmp_path / "a.png")
    assert color_fraction(image, FOR_COLOR) == color_fraction(image, AGAINST_COLOR) == 0


def test_the_picture_has_bars_in_both_colours(tmp_path):
    relevance = one_patch(4.0)
    relevance[2, 1, 1] = -4.0
    plot_explanation(FRAMES, relevance, [0.0, 0.5, 1.0], tmp_path / "a.png", title="moving_left", warning="rough")
    image = read_png(tmp_path / "a.png")
    assert color_fraction(image, FOR_COLOR) > 0.01
    assert color_fraction(image, AGAINST_COLOR) > 0.01


@pytest.mark.parametrize("T", [1, 20])
def test_any_number_of_frames(T, tmp_path):
    frames = np.zeros((T, 33, 33, 3), np.uint8)
    relevance = np.ones((T, 3, 3), np.float32)
    plot_explanation(frames, relevance, list(range(T)), tmp_path / "a.png", title="$x^2$", notes=["a", "b"])
    for suffix in (".gif", ".mp4"):
        write_explanation_video(frames, relevance, list(range(T)), tmp_path / f"a{suffix}")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == T
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= T


def test_shapes_that_do_not_match():
    with pytest.raises(XViTError, match="expected"):
        overlay(FRAMES, np.zeros((2, 2, 3)))
