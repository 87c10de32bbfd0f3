"""The picture of a benchmark: labels apart, plain numbers, colours of ours and greys of peers."""

import colorsys
import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from xvit.visualize.benchmark import CostPoint, draw_benchmark, line_styles, plain_ticks, plot_benchmark, spread

NAMES = (
    "image model",
    "xvit mixing",
    "xvit mixing, tubelet 2, merge 12, mean",
    "xvit joint",
    "VideoMAE",
    "ViViT",
    "$x_1",
)
COSTS = st.floats(0.01, 1e5)
POINTS = st.builds(
    CostPoint, frames=st.sampled_from((4, 8, 64)), ms_per_frame=COSTS, peak_mb=COSTS, gmacs_per_frame=COSTS
)


def overlaps(first, second) -> bool:
    return first.x0 < second.x1 and second.x0 < first.x1 and first.y0 < second.y1 and second.y0 < first.y1


EXTREME = {"image model": CostPoint(frames=4, ms_per_frame=1e5, peak_mb=1e5, gmacs_per_frame=1e5)}


@settings(max_examples=15)
@example(EXTREME, EXTREME)
@given(
    st.dictionaries(st.sampled_from(NAMES), POINTS, min_size=1),
    st.dictionaries(st.sampled_from(NAMES), POINTS, min_size=1),
)
def test_no_text_covers_another(first, second):
    """Titles, numbers on axes and labels at the lines' ends, in two columns of panels."""
    tables = {
        title: {name: [point] for name, point in models.items()} for title, models in (("a", first), ("b", second))
    }
    figure = draw_benchmark(tables, "Inference")
    figure.canvas.draw()
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible()]
    assert sum(text in NAMES or text == r"\$x_1" for text, _ in boxes) == 3 * (len(first) + len(second))
    for (text, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not overlaps(box, other_box), (text, other)


def test_labels_of_equal_values_are_apart_and_in_the_figure():
    point = CostPoint(frames=8, ms_per_frame=60, peak_mb=900, gmacs_per_frame=17)
    figure = draw_benchmark({"b": {f"xvit {index}": [point] for index in range(14)}}, "Inference")
    figure.canvas.draw()
    for axes in figure.axes:
        labels = [text.get_window_extent() for text in axes.texts]
        assert len(labels) == 14
        for first, second in itertools.combinations(labels, 2):
            assert not overlaps(first, second)
        area = axes.get_window_extent()
        for label in labels:
            assert label.x0 > area.x1  # beside the lines, not over them
            assert area.y0 - label.height < label.y0 < label.y1 < area.y1 + label.height
            assert label.x1 < figure.bbox.x1


@given(st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=8))
def test_positions_are_the_nearest_that_are_apart(wanted):
    gap = 0.1
    positions = spread(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [positions[index] for index in order]
    assert all(second - first >= gap - 1e-9 for first, second in pairwise(placed))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 1 + 1e-9
    distance = math.dist(positions, wanted)
    rng = np.random.default_rng(0)
    for _ in range(50):  # no allowed change comes nearer
        changed = np.sort(rng.normal(placed, 0.05))
        changed = np.maximum.accumulate(changed - gap * np.arange(len(changed))) + gap * np.arange(len(changed))
        if changed[0] >= 0 and changed[-1] <= 1:
            assert math.dist(changed, [wanted[index] for index in order]) >= distance - 1e-9
    assert spread([], gap) == []


@given(st.floats(1e-3, 1e7), st.floats(1.16, 1e6))
def test_numbers_on_axes_are_plain_and_few(low, factor):
    ticks = plain_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 9
    assert all(low <= tick <= low * factor for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(60, 900, [100, 200, 500]), (830, 1600, [900, 1000, 1200, 1400, 1600]), (0.02, 30, [0.1, 1, 10])],
)
def test_numbers_on_axes(low, high, expected):
    assert plain_ticks(low, high) == expected


def test_ours_have_colours_and_peers_greys():
    styles = line_styles(NAMES)
    for name, style in styles.items():
        hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(style["color"]))
        assert (saturation > 0.25) == name.startswith("xvit"), (name, hue)
        assert lightness < 0.6  # dark enough on white, for text too
    looks = [(style["color"], style["marker"]) for style in styles.values()]
    assert len(set(looks)) == len(NAMES)


def test_the_file_is_the_same_each_time(tmp_path):
    point = CostPoint(frames=8, ms_per_frame=60, peak_mb=900, gmacs_per_frame=17)
    for name in ("a.png", "b.png"):
        plot_benchmark({"b": {"image model": [point]}}, tmp_path / name, "Inference")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
