"""The chart of a data set."""

import pytest

from xvit.visualize import plot_dataset


@pytest.mark.parametrize("num_classes", [1, 40, 200])
def test_any_number_of_classes_is_drawn(num_classes, tmp_path):
    counts = {split: {f"class ${number}": number % 7 for number in range(num_classes)} for split in ("train", "val")}
    plot_dataset(
        counts, {"seconds": [1.0, 2.0, 2.5], "frames per second": [25.0], "none": []}, tmp_path / "a.png", title="a"
    )
    plot_dataset({}, {}, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
