"""Filmstrips of predictions, checked by the colours in the written file."""

import numpy as np
import pytest

from helpers.images import color_fraction, read_png
from xvit.utils.errors import XViTError
from xvit.visualize import FilmstripRow, plot_filmstrip
from xvit.visualize.style import CORRECT_COLOR, WRONG_COLOR


def test_frames_have_the_colour_of_the_prediction(tmp_path):
    grey = np.full((4, 16, 16, 3), 128, dtype=np.uint8)
    plot_filmstrip([FilmstripRow(grey, "left", "left", 0.9)], tmp_path / "correct.png")
    plot_filmstrip([FilmstripRow(grey, "left", "right", 0.6)], tmp_path / "wrong.png")
    correct, wrong = read_png(tmp_path / "correct.png"), read_png(tmp_path / "wrong.png")
    assert color_fraction(correct, CORRECT_COLOR) > 0.001 > color_fraction(correct, WRONG_COLOR)
    assert color_fraction(wrong, WRONG_COLOR) > 0.001 > color_fraction(wrong, CORRECT_COLOR)
    assert color_fraction(correct, "#808080") > 0.3


def test_invalid_input_raises(tmp_path):
    with pytest.raises(XViTError, match="at least 1"):
        plot_filmstrip([], tmp_path / "x.png")
    with pytest.raises(XViTError, match=r"expected uint8 \(T, H, W, 3\)"):
        FilmstripRow(np.zeros((4, 3, 16, 16), dtype=np.uint8), "a", "a", 1.0)
