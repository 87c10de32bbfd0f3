"""Training: `fit` runs a recipe on a data set and writes a run folder.

engine   `fit`: the loop over epochs
run      the objects of one run, and how they are built from a recipe
recipe   checks of a recipe, against itself and against the data set
run_dir  the run folder: recipe, metrics, saved states
logger   metric rows, progress, unreadable videos
losses, mixup, optim, muon, signals   the parts of a step
"""

from xvit.training.engine import FitResult, fit
from xvit.training.logger import Progress
from xvit.training.losses import classification_loss
from xvit.training.recipe import check_recipe

__all__ = ["FitResult", "Progress", "check_recipe", "classification_loss", "fit"]
