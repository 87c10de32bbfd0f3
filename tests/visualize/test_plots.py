"""Pictures are read back from the files: what was drawn, not how."""

import matplotlib.image
import numpy as np
import pytest

from xvit.utils.errors import XViTError
from xvit.visualize.plots import RIGHT, WRONG, Strip, filmstrip, plot_confusion, plot_curves, plot_per_class


def read(path) -> np.ndarray:
    """A PNG as (H, W, 3) in [0, 1]."""
    return matplotlib.image.imread(path)[..., :3]


def share_of(picture: np.ndarray, color: str) -> float:
    """The share of the pixels that have exactly this colour."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.rint(picture * 255) == wanted).all(axis=-1).mean())


def test_confusion_is_dark_where_the_counts_are(tmp_path):
    labels = ["a", "b"]
    plot_confusion([[8, 0], [0, 3]], labels, tmp_path / "right.png")
    plot_confusion([[0, 8], [3, 0]], labels, tmp_path / "wrong.png")
    right, wrong = read(tmp_path / "right.png"), read(tmp_path / "wrong.png")
    assert right.shape == wrong.shape
    dark_right, dark_wrong = (picture.sum(axis=-1) < 1.2 for picture in (right, wrong))
    # The dark cells of one are light in the other, both on their own diagonal.
    assert (dark_right & ~dark_wrong).mean() > 0.1
    assert (dark_wrong & ~dark_right).mean() > 0.1


def test_confusion_of_an_unseen_class_and_of_many_classes(tmp_path):
    plot_confusion(np.zeros((3, 3)), ["a", "b", "$c_d"], tmp_path / "empty.png")
    plot_confusion(np.eye(174, dtype=int), [f"class {i}" for i in range(174)], tmp_path / "many.png")
    assert max(read(tmp_path / "many.png").shape) < 2000


def test_confusion_refuses_a_matrix_of_another_size(tmp_path):
    with pytest.raises(XViTError, match=r"shape \(2, 3\) for 2 labels: expected \(2, 2\)"):
        plot_confusion(np.zeros((2, 3)), ["a", "b"], tmp_path / "x.png")


def test_per_class_bars_are_as_long_as_the_accuracy(tmp_path):
    classes = [f"class {i}" for i in range(6)]
    plot_per_class({"model": dict.fromkeys(classes, 0.9)}, tmp_path / "long.png")
    plot_per_class({"model": dict.fromkeys(classes, 0.3)}, tmp_path / "short.png")
    blue = "#2563eb"
    long, short = (share_of(read(tmp_path / name), blue) for name in ("long.png", "short.png"))
    assert long / short == pytest.approx(3, rel=0.05)


def test_curves_take_rows_of_steps_and_of_validations(tmp_path):
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 1, "top1": 0.2}, {"epoch": 2, "loss": 2.0}, {"epoch": 2, "top1": 0.6}]
    plot_curves({"one": rows, "other": rows[:1]}, tmp_path / "curves.png", bound=("bound", 0.5))
    assert share_of(read(tmp_path / "curves.png"), "#2563eb") > 0


def test_filmstrip_frames_right_and_wrong_predictions_in_their_colours(tmp_path):
    grey = np.full((4, 16, 16, 3), 128, dtype=np.uint8)
    filmstrip([Strip(grey, "left", "left", 0.9)], tmp_path / "right.png")
    filmstrip([Strip(grey, "left", "right", 0.6)], tmp_path / "wrong.png")
    right, wrong = read(tmp_path / "right.png"), read(tmp_path / "wrong.png")
    assert share_of(right, RIGHT) > 0.001 > share_of(right, WRONG)
    assert share_of(wrong, WRONG) > 0.001 > share_of(wrong, RIGHT)
    assert share_of(right, "#808080") > 0.3


def test_filmstrip_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(XViTError, match="at least 1"):
        filmstrip([], tmp_path / "x.png")
    with pytest.raises(XViTError, match=r"expected uint8 \(T, H, W, 3\)"):
        Strip(np.zeros((4, 3, 16, 16), dtype=np.uint8), "a", "a", 1.0)


def test_pictures_do_not_depend_on_the_time_they_are_made(tmp_path):
    for name in ("one.png", "two.png"):
        plot_confusion(np.eye(3), ["a", "b", "c"], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
