"""Curves in a terminal, drawn with Braille characters of 2 x 4 dots."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from rich.text import Text

Points = Sequence[tuple[float, float]]

_DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # the bit of each dot of a character, by row and column
_BLANK = 0x2800
_LABEL_WIDTH = 6  # characters left of the curves


def draw_curves(
    curves: Mapping[str, Points],
    *,
    title: str,
    width: int,
    height: int,
    x_max: float,
    y_max: float,
    percent: bool = False,
) -> Text:
    """Draw curves as a text of `height` + 2 lines: a title, the curves, and the x axis from 0 to `x_max`.

    Args:
        curves: points (x, y) by style, such as "blue", each curve in ascending x. Later curves cover earlier ones.
        title: of the first line.
        width: characters in all.
        height: lines of the curves.
        x_max, y_max: the ends of the axes, which begin at 0; points beyond are drawn at the edge.
        percent: label the y axis in percent.
    """
    columns = max(width - _LABEL_WIDTH - 1, 1)
    cells = [[0] * columns for _ in range(height)]
    styles = [[""] * columns for _ in range(height)]
    for style, points in curves.items():
        right, bottom = 2 * columns - 1, 4 * height - 1
        dots = [(_scale(x / x_max, right), bottom - _scale(y / y_max, bottom)) for x, y in points]
        for x, y in _connect(dots):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
            styles[y // 4][x // 2] = style
    text = Text(f"{title}\n", no_wrap=True)
    labels = {0: f"{100 * y_max:.0f} %" if percent else f"{y_max:.1f}", height - 1: "0 %" if percent else "0"}
    for row in range(height):
        text.append(f"{labels.get(row, ''):>{_LABEL_WIDTH}}│", "dim")
        for cell, style in zip(cells[row], styles[row], strict=True):
            text.append(chr(_BLANK + cell) if cell else " ", style)
        text.append("\n")
    end = f"{x_max:g}"
    return text.append(f"{'0':>{_LABEL_WIDTH + 2}}{end:>{columns - 1}}", "dim")


def _scale(fraction: float, last: int) -> int:
    return round(min(max(fraction, 0.0), 1.0) * last)


def _connect(dots: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """All dots on the lines from each dot to the next."""
    yield from dots[:1]
    for (x, y), (next_x, next_y) in pairwise(dots):
        steps = max(abs(next_x - x), abs(next_y - y), 1)
        for step in range(1, steps + 1):
            yield round(x + (next_x - x) * step / steps), round(y + (next_y - y) * step / steps)
