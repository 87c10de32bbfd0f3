"""The plot of a timeline."""

import matplotlib.image
import numpy as np
import pytest

from xvit.utils.errors import XViTError
from xvit.visualize import plot_timeline


def test_bands_are_as_long_as_the_segments(tmp_path):
    times = np.arange(3000) + 0.5
    scores = np.zeros((3000, 30))
    scores[:1500, 7] = 1
    class_names = [f"class_{i}" for i in range(30)]
    frames = np.full((14, 20, 30, 3), 128, np.uint8)

    def count_pixels(name, **options) -> tuple[float, float]:
        """Numbers of pixels in the color of the bands, and in that of the frames."""
        plot_timeline(times, scores, class_names, tmp_path / name, duration=3000, title="$ _", **options)
        image = np.rint(255 * matplotlib.image.imread(tmp_path / name)[..., :3])
        assert max(image.shape) < 2000
        blue, grey = ((image == color).all(axis=-1).sum() for color in ((0x25, 0x63, 0xEB), (128, 128, 128)))
        return float(blue), float(grey)

    half, without_frames = count_pixels("half.png", bands={"found": [(0, 1500, "class_7")], "truth": []})
    full, _ = count_pixels("full.png", bands={"found": [(0, 3000, "class_7")], "truth": []})
    empty, with_frames = count_pixels("empty.png", bands={"found": []}, frames=frames)
    assert full - half == pytest.approx(half - empty, rel=0.5)
    assert without_frames < 1000 < with_frames
    with pytest.raises(XViTError, match=r"expected \(N, K\)"):
        plot_timeline(times, scores.T, class_names, tmp_path / "x.png", duration=1, bands={})
