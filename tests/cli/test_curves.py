"""Curves in a terminal, against dots that are read back from the characters."""

import numpy as np
import pytest

from xvit.cli.curves import draw_curves


def read_dots(text: str, columns: int) -> np.ndarray:
    """The dots of the curves (4 x lines, 2 x columns), from the characters right of the axis."""
    lines = [line.split("│")[1] for line in text.splitlines() if "│" in line]
    assert {len(line) for line in lines} == {columns}
    bits = [[1, 8], [2, 16], [4, 32], [64, 128]]  # Unicode 1.1, block 2800
    rows = [
        [
            bool((0 if character == " " else ord(character) - 0x2800) & bits[row][column])
            for character in line
            for column in (0, 1)
        ]
        for line in lines
        for row in range(4)
    ]
    return np.array(rows)


def draw(*curves, width=27, height=5, x_max=4.0, y_max=1.0, **options):
    styles = ("red", "green")
    curves = dict(zip(styles, curves, strict=False))
    return draw_curves(curves, title="t", width=width, height=height, x_max=x_max, y_max=y_max, **options)


def test_points_are_where_they_belong():
    points = [(0.0, 0.0), (4.0, 1.0), (2.0, 0.5)]
    for x, y in points:
        dots = read_dots(draw([(x, y)]).plain, 20)
        assert dots.sum() == 1
        row, column = np.argwhere(dots)[0]
        assert (column, row) == (round(x / 4 * 39), 19 - round(y * 19))


def test_a_curve_has_no_gaps():
    x = np.linspace(0.5, 4, 9)
    dots = read_dots(draw(list(zip(x, np.sin(x) ** 2, strict=True))).plain, 20)
    places = np.argwhere(dots)
    assert set(places[:, 1]) == set(range(round(0.5 / 4 * 39), 40))
    for place in places:  # each dot touches another one
        assert (np.abs(places - place).max(axis=1) == 1).any()


def test_values_beyond_the_axes_are_at_their_ends():
    assert np.argwhere(read_dots(draw([(9.0, 5.0)]).plain, 20)).tolist() == [[0, 39]]
    assert np.argwhere(read_dots(draw([(-1.0, -1.0)]).plain, 20)).tolist() == [[19, 0]]


@pytest.mark.parametrize("percent", [False, True])
def test_axes_are_labelled(percent):
    lines = draw([(1.0, 1.0)], y_max=1.0 if percent else 2.5, percent=percent).plain.splitlines()
    assert lines[0] == "t"
    assert lines[1].split("│")[0].strip() == ("100 %" if percent else "2.5")
    assert lines[5].split("│")[0].strip() == ("0 %" if percent else "0")
    assert lines[6].split() == ["0", "4"]
    assert max(map(len, lines)) == 27


def test_later_curves_cover_earlier_ones():
    text = draw([(0.0, 1.0), (4.0, 1.0)], [(0.0, 1.0)])
    start = text.plain.index("│") + 1
    styles = {span.start - start: span.style for span in text.spans if span.style in ("red", "green")}
    assert styles == {0: "green", **dict.fromkeys(range(1, 20), "red")}


def test_without_points_there_are_only_axes():
    assert not read_dots(draw([]).plain, 20).any()
