"""How far scores can be trusted: their calibration error, and the measurement of a `Calibration`.

    score     0.0 ... 0.2 ... 0.4 ... 0.6 ... 0.8 ... 1.0     of the predicted class, in 15 bins of equal width
    accuracy  of the predictions in a bin; calibrated scores equal it

A calibration is measured with one view per video, as predictions, streams and timelines use by default.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvit.checkpoint.weights import weights_hash
from xvit.config import SINGLE_TASK, Calibration, DataConfig, EvalConfig, as_task_dict, energies
from xvit.data.annotations import Sample
from xvit.evaluation.scoring import ScoredVideos, score_videos
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range
from xvit.visualize import plot_rejection, plot_reliability

NUM_BINS = 15
_MAX_LOG_TEMPERATURE = math.log(100)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often predictions are right, by the score of the predicted class, in `NUM_BINS` bins of equal width.

    Args:
        videos: number of videos in each bin.
        score: their mean score; None in a bin without videos.
        accuracy: the share of them that is right; None in a bin without videos.
    """

    videos: list[int]
    score: list[float | None]
    accuracy: list[float | None]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean of |score - accuracy| over the videos, bin by bin.

        Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, 2015.
        """
        bins = zip(self.videos, self.score, self.accuracy, strict=True)
        gaps = [n * abs(s - a) for n, s, a in bins if s is not None and a is not None]
        return sum(gaps) / sum(self.videos)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskCalibration:
    """The calibration of one task, and what it does to the scores of the videos that it was measured on.

    Args:
        calibration: what is stored in the checkpoint.
        before, after: reliability of the scores without and with the temperature.
        coverage: share of the videos that are accepted.
        precision: share of the accepted videos, those of no class included, whose class is right.
        unknown_rejected: share of the videos of no class that are rejected; None if none were given.
        energies: of the videos: "known" and perhaps "unknown".
    """

    calibration: Calibration
    before: Reliability
    after: Reliability
    coverage: float
    precision: float
    unknown_rejected: float | None
    energies: dict[str, np.ndarray]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self.calibration) | {
            "calibration_error_before": self.before.calibration_error,
            "calibration_error": self.after.calibration_error,
            "coverage": self.coverage,
            "precision": self.precision,
            "unknown_rejected": self.unknown_rejected,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationResult:
    """The calibration of a model.

    Args:
        tasks: of each task.
        known: the scored videos with labels.
        unknown: the scored videos of no class; None if none were given.
    """

    tasks: dict[str, TaskCalibration]
    known: ScoredVideos
    unknown: ScoredVideos | None

    @property
    def calibration(self) -> dict[str, Calibration]:
        """What is stored in the checkpoint."""
        return {task: result.calibration for task, result in self.tasks.items()}

    def plot(self, directory: Path) -> None:
        """Write reliability.png and rejection.png of each task."""
        for task, result in self.tasks.items():
            suffix = "" if task == SINGLE_TASK else f"_{task}"
            models = {"before": result.before, "after": result.after}
            named = {f"{name}: {100 * x.calibration_error:.1f} %": asdict(x) for name, x in models.items()}
            plot_reliability(named, directory / f"reliability{suffix}.png")
            plot_rejection(result.energies, result.calibration.energy_threshold, directory / f"rejection{suffix}.png")


def calibrate(
    model: XViT,
    samples: Sequence[Sample],
    *,
    unknown: Sequence[Sample] = (),
    keep: float = 0.95,
    num_workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> CalibrationResult:
    """Measure the calibration of a model. Its own, if it has one, is neither used nor changed.

    Args:
        model: with one label per video (and task).
        samples: labelled videos that it was not trained on; their labels index its classes (see `match_labels`).
        unknown: videos of none of its classes. They change nothing but the report.
        keep: share of the correctly classified videos to accept, in (0, 1].
        num_workers, decode_timeout: as in `score_videos`.
        on_progress: called with the number of videos done and the total.

    Raises:
        XViTError: a multi-label model; too few videos are classified correctly; none can be read.
    """
    check_range("keep", keep, 1e-3, 1)
    check_single_label(model)
    before = model.calibration
    found = weights_hash(model.state_dict())
    neutral = Calibration(temperature=1, energy_threshold=0, keep=1, videos=1, weights_hash=found)
    model.calibration = dict.fromkeys(model.config.tasks, neutral)  # the margins are then the energies
    try:
        scored = []
        for part, done in ((samples, 0), (unknown, len(samples))):
            if part:
                scored.append(
                    score_videos(
                        Predictor(model),
                        part,
                        eval_config=EvalConfig(),
                        num_workers=num_workers,
                        decode_timeout=decode_timeout,
                        on_progress=_count_on(on_progress, done, len(samples) + len(unknown)),
                    )
                )
    finally:
        model.calibration = before
    known, others = scored[0], scored[1] if unknown else None
    tasks = {task: _calibrate_task(task, known, others, keep, found) for task in model.config.tasks}
    return CalibrationResult(tasks=tasks, known=known, unknown=others)


def calibrate_scores(
    scored: ScoredVideos, weights: str, *, own: ScoredVideos, keep: float = 0.95
) -> dict[str, TaskCalibration]:
    """The calibration of each task from scores alone, those of a cross-validation.

    Softmax scores are logits minus a number for each video, to which temperature and energy are blind.

    The models of the folds and the model that is calibrated need not have energies of the same size. Its own training
    videos bound its threshold: it accepts the share `keep` of those as well.

    Args:
        scored: labelled videos, each scored by a model without calibration that was not trained on it.
        weights: hash of the weights that the calibration is for.
        own: the same videos, scored by the model that is calibrated.
        keep: share of the correctly classified videos to accept, in (0, 1].

    Raises:
        XViTError: too few videos are classified correctly.
    """
    known, own = _with_energies(scored), _with_energies(own)
    return {
        task: _calibrate_task(
            task, known, None, keep, weights, highest=choose_threshold(own.margins[task][_is_right(own, task)], keep)
        )
        for task in scored.scores
    }


def _with_energies(scored: ScoredVideos) -> ScoredVideos:
    """The same with energies for margins."""
    tiny = torch.finfo(torch.float32).tiny
    logits = {task: scores.double().clamp_min(tiny).log().numpy() for task, scores in scored.scores.items()}
    return replace(scored, margins={task: torch.from_numpy(energies(values)) for task, values in logits.items()})


def _targets(scored: ScoredVideos, task: str) -> Tensor:
    return torch.tensor([as_task_dict(sample.label)[task] for sample in scored.samples])


def _is_right(scored: ScoredVideos, task: str) -> Tensor:
    return scored.scores[task].argmax(dim=1) == _targets(scored, task)


def check_single_label(model: XViT) -> None:
    """Raise `XViTError` for a multi-label model."""
    if model.config.multi_label:
        raise XViTError(
            "a multi-label model: each of its classes has a score of its own, so that all of them can be low; only "
            "models with one label per video can be calibrated. Choose thresholds of its scores instead"
        )


def _count_on(
    on_progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    """Reports the progress of a part that begins after `before` videos."""
    return on_progress and (lambda done, _: on_progress(before + done, total))


def _calibrate_task(
    task: str, known: ScoredVideos, unknown: ScoredVideos | None, keep: float, found: str, *, highest: float = math.inf
) -> TaskCalibration:
    scores, energies, targets = known.scores[task], known.margins[task].numpy(), _targets(known, task)
    right = _is_right(known, task).numpy()
    temperature = fit_temperature(scores, targets)
    threshold = min(choose_threshold(energies[right], keep), highest)
    accepted = energies >= threshold
    others = np.empty(0) if unknown is None else unknown.margins[task].numpy()
    num_accepted = int(accepted.sum() + (others >= threshold).sum())
    return TaskCalibration(
        calibration=Calibration(
            temperature=temperature,
            energy_threshold=threshold,
            keep=keep,
            videos=len(targets),
            weights_hash=found,
        ),
        before=measure_reliability(scores, targets),
        after=measure_reliability(scale_scores(scores, temperature), targets),
        coverage=float(accepted.mean()),
        precision=float((accepted & right).sum()) / num_accepted,
        unknown_rejected=None if unknown is None else float((others < threshold).mean()),
        energies={"known": energies} | ({} if unknown is None else {"unknown": others}),
    )


def measure_reliability(scores: Tensor, targets: Tensor) -> Reliability:
    """The reliability of scores (N, K) in [0, 1] for the true classes (N,). Bin i is (i / 15, (i + 1) / 15].

    Guo et al., On calibration of modern neural networks, 2017, section 2.
    """
    best, predicted = scores.double().max(dim=1)
    right = (predicted == targets).double()
    bins = ((best * NUM_BINS).ceil().long() - 1).clamp(0, NUM_BINS - 1)
    members = [bins == index for index in range(NUM_BINS)]
    return Reliability(
        videos=[int(inside.sum()) for inside in members],
        score=[best[inside].mean().item() if inside.any() else None for inside in members],
        accuracy=[right[inside].mean().item() if inside.any() else None for inside in members],
    )


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature T with the smallest mean of -log softmax(logits / T) of the true class.

    The loss is convex in 1 / T, so bisection of its slope finds the minimum. The true class has the probability
    (N + 1) / (N + 2) and not 1: if all videos are classified correctly, T would be 0 (Platt, Probabilistic outputs for
    support vector machines, 1999).

    Args:
        scores: (N, K), softmax of the logits.
        targets: (N,), the true classes.
    """
    logits = scores.double().clamp_min(torch.finfo(torch.float32).tiny).log()  # up to a number for each video
    N, K = logits.shape
    wanted = torch.full_like(logits, 1 / (N + 2) / max(K - 1, 1))
    wanted.scatter_(1, targets[:, None], (N + 1) / (N + 2))
    expected = (wanted * logits).sum(dim=1).mean()
    low, high = -_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE  # of log(1 / T)
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((logits * math.exp(middle)).softmax(dim=1) * logits).sum(dim=1).mean() - expected
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-middle)


def scale_scores(scores: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) from softmax(logits), both (N, K)."""
    tiny = torch.finfo(torch.float32).tiny
    return (scores.double().clamp_min(tiny).log() / temperature).softmax(dim=1).float()


def choose_threshold(values: np.ndarray | Tensor | Sequence[float], keep: float) -> float:
    """The highest threshold that at least the share `keep` of the values reaches; midway to the values that do not.

    Args:
        values: energies of videos whose class is right.
        keep: in (0, 1].

    Raises:
        XViTError: so few values that the share left out is less than one of them.
    """
    needed = 1 if keep == 1 else math.ceil(1 / (1 - keep) - 1e-6)
    if len(values) < needed:
        raise XViTError(
            f"{len(values)} correctly classified videos: expected at least {needed}, of which keep={keep:g} leaves out "
            "one; give more videos"
        )
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    kept = math.ceil(keep * len(ordered) - 1e-6)
    first = len(ordered) - kept  # the lowest value that is kept
    below, lowest = float(ordered[max(first - 1, 0)]), float(ordered[first])
    middle = (below + lowest) / 2
    return middle if middle > below else lowest  # equal numbers, or neighbours
