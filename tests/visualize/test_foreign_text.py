"""Names of any characters in plots: no formula, no crash, no warning (which is an error here)."""

import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

from xvit.visualize import (
    FilmstripRow,
    plot_confusion_matrix,
    plot_dataset,
    plot_filmstrip,
    plot_per_class,
    plot_timeline,
    plot_training_curves,
)
from xvit.visualize.style import display_name

NAMES = [
    "$x$",
    "$\\frac{$",
    "a\\$b$",
    "50 $ and 20 $",
    "{}^_\\",
    "a\nb\x1b[0m",
    "caf\udce9",
    "动作 می 👩",
    "\u202eabc",
    "",
]
FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def draw_timeline(names, path):
    scores = np.full((3, len(names)), 0.5)
    bands = {name: [(0.0, 1.0, name)] for name in names}
    times = np.array([0.5, 1.0, 1.5])
    plot_timeline(times, scores, names, path, duration=2, bands=bands, ignored=names[:1], title=" ".join(names))


PLOTS = {
    "confusion": lambda n, path: plot_confusion_matrix(np.eye(len(n)), n, path, title=n[0]),
    "per class": lambda n, path: plot_per_class({f"model {x}": dict.fromkeys(n, 0.5) for x in n}, path),
    "curves": lambda n, path: plot_training_curves({x: [{"epoch": 1, "top1": 0.5, "loss": 1}] for x in n}, path),
    "filmstrip": lambda n, path: plot_filmstrip([FilmstripRow(FRAMES, x, f"not {x}", 0.5) for x in n], path),
    "dataset": lambda n, path: plot_dataset({x: dict.fromkeys(n, 1) for x in n}, {n[0]: [1.0]}, path, title=n[0]),
    "timeline": draw_timeline,
}


@pytest.mark.parametrize("plot", PLOTS)
def test_names_are_text(plot, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("text was read as a formula")

    monkeypatch.setattr(MathTextParser, "parse", refuse)
    PLOTS[plot](NAMES, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_shortened_name_has_its_length_as_shown():
    assert display_name("$" * 20, 10) == "\\$" * 9 + "…"
    assert display_name("a\nb_c") == r"a\nb c"
