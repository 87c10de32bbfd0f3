"""Plots of evaluations and trainings, checked by reading the written files."""

import numpy as np
import pytest

from helpers.images import color_fraction, read_png
from xvit.utils.errors import XViTError
from xvit.visualize import plot_confusion_matrix, plot_per_class, plot_training_curves


def test_confusion_matrix_is_dark_where_the_counts_are(tmp_path):
    class_names = ["a", "b"]
    plot_confusion_matrix([[8, 0], [0, 3]], class_names, tmp_path / "right.png")
    plot_confusion_matrix([[0, 8], [3, 0]], class_names, tmp_path / "wrong.png")
    right, wrong = read_png(tmp_path / "right.png"), read_png(tmp_path / "wrong.png")
    assert right.shape == wrong.shape
    dark_right, dark_wrong = (image.sum(axis=-1) < 1.2 for image in (right, wrong))
    # Each is dark on its own diagonal, where the other one is light.
    assert (dark_right & ~dark_wrong).mean() > 0.1
    assert (dark_wrong & ~dark_right).mean() > 0.1


def test_confusion_matrix_without_samples_and_with_many_classes(tmp_path):
    plot_confusion_matrix(np.zeros((3, 3)), ["a", "b", "$c_d"], tmp_path / "empty.png")
    plot_confusion_matrix(np.eye(174, dtype=int), [f"class {i}" for i in range(174)], tmp_path / "many.png")
    assert max(read_png(tmp_path / "many.png").shape) < 2000


def test_confusion_matrix_of_a_wrong_size_raises(tmp_path):
    with pytest.raises(XViTError, match=r"shape \(2, 3\) for 2 classes: expected \(2, 2\)"):
        plot_confusion_matrix(np.zeros((2, 3)), ["a", "b"], tmp_path / "x.png")


def test_lengths_of_per_class_bars_are_proportional_to_accuracy(tmp_path):
    classes = [f"class {i}" for i in range(6)]
    plot_per_class({"model": dict.fromkeys(classes, 0.9)}, tmp_path / "long.png")
    plot_per_class({"model": dict.fromkeys(classes, 0.3)}, tmp_path / "short.png")
    blue = "#2563eb"
    long, short = (color_fraction(read_png(tmp_path / name), blue) for name in ("long.png", "short.png"))
    assert long / short == pytest.approx(3, rel=0.05)


def test_training_curves_accept_rows_of_steps_and_of_validations(tmp_path):
    rows = [{"epoch": 1, "loss": 3.0}, {"epoch": 1, "top1": 0.2}, {"epoch": 2, "loss": 2.0}, {"epoch": 2, "top1": 0.6}]
    plot_training_curves({"one": rows, "other": rows[:1]}, tmp_path / "curves.png", reference=("reference", 0.5))
    assert color_fraction(read_png(tmp_path / "curves.png"), "#2563eb") > 0


def test_files_do_not_depend_on_the_time(tmp_path):
    for name in ("one.png", "two.png"):
        plot_confusion_matrix(np.eye(3), ["a", "b", "c"], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
