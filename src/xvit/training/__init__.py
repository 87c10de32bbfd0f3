"""Training: `fit` runs a recipe on a data set and writes a run folder.

engine   `fit`: the loop over epochs
folds    `cross_validate`: `fit` for each part of a data set that is held out
run      the checks of a recipe, and the objects of one run
run_dir  the run folder: recipe, metrics, saved states
logger   metric rows, progress, unreadable videos
tuning, frame_cache      training a part of the weights; the frame vectors of a frozen backbone
losses, optim, signals   the parts of a step
"""

from xvit.training.engine import FitResult, fit
from xvit.training.folds import CrossValidation, FoldResult, cross_validate
from xvit.training.logger import Progress
from xvit.training.losses import classification_loss
from xvit.training.run import check_recipe

__all__ = [
    "CrossValidation",
    "FitResult",
    "FoldResult",
    "Progress",
    "check_recipe",
    "classification_loss",
    "cross_validate",
    "fit",
]
