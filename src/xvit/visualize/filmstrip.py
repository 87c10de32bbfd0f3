"""Predictions with the frames that the model saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from xvit.utils.errors import XViTError
from xvit.visualize.style import CORRECT_COLOR, TEXT_COLOR, WRONG_COLOR, display_name, new_figure, save_figure


@dataclass(frozen=True)
class FilmstripRow:
    """One clip of a filmstrip with its prediction.

    Args:
        frames: (T, H, W, 3) uint8.
        ground_truth: the true class.
        prediction: the predicted class.
        score: of the prediction, in [0, 1].

    Raises:
        XViTError: frames of a wrong shape or type.
    """

    frames: np.ndarray
    ground_truth: str
    prediction: str
    score: float

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise XViTError(f"frames of {self.frames.dtype} {self.frames.shape}: expected uint8 (T, H, W, 3)")

    @property
    def color(self) -> str:
        """Green for a correct prediction, red for a wrong one."""
        return CORRECT_COLOR if self.prediction == self.ground_truth else WRONG_COLOR


def plot_filmstrip(rows: Sequence[FilmstripRow], path: str | Path) -> None:
    """Draw clips as rows of frames, with prediction and score in green if correct, in red if wrong.

    Args:
        rows: clips with the same number of frames.
        path: the PNG file to write.

    Raises:
        XViTError: no rows.
    """
    if not rows:
        raise XViTError("filmstrip without clips: expected at least 1")
    columns = max(len(row.frames) for row in rows)
    width, text_width = 9.6, 2.5  # inches
    side = (width - text_width) / columns
    figure = new_figure(width, (side + 0.06) * len(rows) + 0.1, layout=None)
    grid = figure.add_gridspec(
        len(rows), columns, left=text_width / width, right=0.995, bottom=0.01, top=0.99, wspace=0.04, hspace=0.06
    )
    for index, row in enumerate(rows):
        for column, frame in enumerate(row.frames):
            axes = figure.add_subplot(grid[index, column])
            axes.imshow(frame, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=row.color, linewidth=1.5)
            if column == 0:
                _draw_caption(axes, row)
    save_figure(figure, path)


def _draw_caption(axes: Axes, row: FilmstripRow) -> None:
    """The prediction left of the first frame; below it the true class, if it is another one."""
    options: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    options["ha"] = "right"
    correct = row.prediction == row.ground_truth
    y, va = (0, "center") if correct else (2, "bottom")
    caption = f"{display_name(row.prediction)}  {100 * row.score:.0f} %"
    axes.annotate(caption, (0, 0.5), (-8, y), va=va, color=row.color, fontsize=9, fontweight="bold", **options)
    if not correct:
        truth = f"ground truth: {display_name(row.ground_truth)}"
        axes.annotate(truth, (0, 0.5), (-8, -2), va="top", color=TEXT_COLOR, fontsize=8, **options)
