"""Plots of results: plain arrays in, PNG files out.

`plots` draws confusion matrices, accuracies per class, reliability and training curves; `filmstrip` predictions with
their frames; `dataset` the class counts of a data set; `timeline` the classes of a long video; `ablation` and
`benchmark` the results of experiments. `style` holds what they share. Matplotlib is used without its global state, so
any thread may draw.
"""

from xvit.visualize.ablation import plot_differences
from xvit.visualize.benchmark import CostPoint, plot_benchmark
from xvit.visualize.dataset import plot_dataset
from xvit.visualize.filmstrip import FilmstripRow, plot_filmstrip
from xvit.visualize.plots import (
    plot_confusion_matrix,
    plot_per_class,
    plot_rejection,
    plot_reliability,
    plot_training_curves,
)
from xvit.visualize.timeline import plot_timeline

__all__ = ["CostPoint", "FilmstripRow", "plot_benchmark", "plot_confusion_matrix", "plot_dataset", "plot_differences"]
__all__ += ["plot_filmstrip", "plot_per_class", "plot_rejection", "plot_reliability", "plot_timeline"]
__all__ += ["plot_training_curves"]
