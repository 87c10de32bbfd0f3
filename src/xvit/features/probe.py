"""Probing: how well features separate classes, by k nearest neighbours, a linear layer and an attentive probe."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from xvit.features.storage import VideoFeatures
from xvit.utils.errors import XViTError, check_range, did_you_mean, import_optional

WEIGHT_DECAYS = (1.0, 0.1, 0.01)  # of the attentive probe, strongest first
_C_VALUES = (0.001, 0.01, 0.1, 1.0, 10.0)  # inverse regularisation strengths to choose from, strongest first
_HELD_OUT_FRACTION = 0.2  # of each class, for this choice


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of the test videos, in [0, 1].

    Args:
        top1: share whose class has the highest score.
        top5: share whose class is among the five highest scores, and has a score above 0; None for five classes or
            fewer.
    """

    top1: float
    top5: float | None


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of `probe_features`.

    Args:
        knn: accuracy of the k nearest neighbours.
        linear: accuracy of the linear layer.
        k: number of neighbours.
        C: chosen inverse strength of the linear layer's regularisation.
        attentive: accuracy of the attentive probe; None for features of whole clips, which have no frames.
        weight_decay: chosen weight decay of the attentive probe, or None.
        averaged: what was averaged to one vector per video, except for the attentive probe: frames, tokens, or None.
        classes: their number.
        train_videos: their number.
        test_videos: their number.
    """

    knn: Accuracy
    linear: Accuracy
    k: int
    C: float
    attentive: Accuracy | None
    weight_decay: float | None
    averaged: str | None
    classes: int
    train_videos: int
    test_videos: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)


def probe_features(
    train: VideoFeatures,
    test: VideoFeatures,
    *,
    k: int = 20,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Classify test videos from their features and those of labelled training videos.

    The k training videos with the highest cosine similarity vote, each with the weight 1 / (1 - similarity). The
    linear layer is a logistic regression on standardised features. The attentive probe (`xvit.features.attentive`) sees
    the frames and their order; tokens are averaged to frames. The regularisation of both is chosen on a fifth of the
    training videos of each class; then they are fitted to all of them.

    Args:
        train: labelled features to learn from. For the neighbours and the linear layer, frames and tokens are averaged
            to one vector per video.
        test: features of the same model, clip spec and level, with classes of `train`.
        seed: of the choice of that fifth, and of the attentive probe.
        on_progress: called with the number of steps done and the total.

    Raises:
        XViTError: the level, model or clip spec differ; a video has no label, or a class that `train` lacks; there is
            only one class; k exceeds the number of training videos; a feature is not finite; scikit-learn is missing.
    """
    check_range("k", k, 1)
    check_range("seed", seed, 0)
    if k > len(train.paths):
        raise XViTError(f"k={k}: more than the {len(train.paths)} training videos; choose a smaller k")
    classes, y, y_test = _class_indices(train, test)
    x, x_test = _mean_vectors(train), _mean_vectors(test)  # (N, D)
    classifier = import_optional("sklearn.neighbors", extra="features").KNeighborsClassifier
    knn = classifier(k, weights="distance", metric="cosine").fit(x, y)
    has_frames = train.level != "clip"
    total = len(_C_VALUES) + 1 + has_frames * (len(WEIGHT_DECAYS) + 1)  # one per candidate, and the final fits
    steps = count(1)

    def advance() -> None:
        if on_progress is not None:
            on_progress(next(steps), total)

    linear, C = _fit_best(_fit_linear, _C_VALUES, x, y, seed, advance)
    probe = weight_decay = None
    if has_frames:
        frames, frames_test = _frame_vectors(train), _frame_vectors(test)  # (N, T, D)
        fit = partial(_fit_attentive, num_classes=len(classes), seed=seed)
        probe, weight_decay = _fit_best(fit, WEIGHT_DECAYS, frames, y, seed, advance)
    return ProbeResult(
        knn=_accuracy(knn.predict_proba(x_test), y_test),
        linear=_accuracy(linear.predict_proba(x_test), y_test),
        k=k,
        C=C,
        attentive=_accuracy(probe.predict_proba(frames_test), y_test) if probe else None,
        weight_decay=weight_decay,
        averaged=train.level if has_frames else None,
        classes=len(classes),
        train_videos=len(x),
        test_videos=len(x_test),
    )


def _class_indices(train: VideoFeatures, test: VideoFeatures) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The classes, and the class indices (N,) of the training and of the test videos, after checking both."""
    for name in ("level", "model_hash", "clip_spec"):
        if getattr(train, name) != getattr(test, name):
            values = f"{name} {getattr(train, name)}, test features have {getattr(test, name)}"
            raise XViTError(f"training features have {values}: expected the same")
    names, test_names = _known_labels(train, "training"), _known_labels(test, "test")
    classes = sorted(set(names))
    if len(classes) == 1:
        raise XViTError(f'training features: only one class, "{classes[0]}": expected two or more')
    for name, path in zip(test_names, test.paths, strict=True):
        if name not in classes:
            raise XViTError(f'{path}: class "{name}" is not in the training features.{did_you_mean(name, classes)}')
    return classes, np.searchsorted(classes, names), np.searchsorted(classes, test_names)


def _fit_best(
    fit: Callable[[np.ndarray, np.ndarray, float], Any],
    strengths: Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    advance: Callable[[], None],
) -> tuple[Any, float]:
    """A classifier that is fitted with the strength of the highest accuracy on held-out training videos.

    Of equal ones the first is taken, which should be the strongest regularisation; without held-out videos, 1.
    """
    held_out = _held_out(y, seed)
    accuracies = []
    for strength in strengths:
        if held_out.any():
            accuracies.append(fit(x[~held_out], y[~held_out], strength).score(x[held_out], y[held_out]))
        advance()
    chosen = strengths[int(np.argmax(accuracies))] if accuracies else 1.0
    fitted = fit(x, y, chosen)
    advance()
    return fitted, chosen


def _fit_linear(x: np.ndarray, y: np.ndarray, C: float) -> Any:
    scaler = import_optional("sklearn.preprocessing", extra="features").StandardScaler()
    regression = import_optional("sklearn.linear_model", extra="features").LogisticRegression(C=C, max_iter=1000)
    with warnings.catch_warnings():  # a fit that has not fully converged is accurate enough
        warnings.simplefilter("ignore", import_optional("sklearn.exceptions", extra="features").ConvergenceWarning)
        return import_optional("sklearn.pipeline", extra="features").make_pipeline(scaler, regression).fit(x, y)


def _fit_attentive(x: np.ndarray, y: np.ndarray, weight_decay: float, *, num_classes: int, seed: int) -> Any:
    from xvit.features.attentive import FittedProbe  # which imports torch

    return FittedProbe(x, y, num_classes, weight_decay=weight_decay, seed=seed)


def _accuracy(scores: np.ndarray, targets: np.ndarray) -> Accuracy:
    """scores: (N, classes), targets: (N,) class indices."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]  # (N, up to 5)
    hits = (top == targets[:, None]) & (np.take_along_axis(scores, top, axis=1) > 0)
    return Accuracy(top1=float(hits[:, 0].mean()), top5=float(hits.any(axis=1).mean()) if scores.shape[1] > 5 else None)


def _held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: a fifth of each class, at least one video; none of a class with a single video."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in range(y.max() + 1):
        indices = rng.permutation(np.flatnonzero(y == label))
        if len(indices) > 1:
            chosen[indices[: max(round(_HELD_OUT_FRACTION * len(indices)), 1)]] = True
    return chosen


def _mean_vectors(features: VideoFeatures) -> np.ndarray:
    """(N, D): the mean over frames and tokens."""
    vectors = np.asarray(features.values.mean(axis=tuple(range(1, features.values.ndim - 1))))
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise XViTError(f"{features.paths[int(finite.argmin())]}: a feature is not a finite number")
    return vectors


def _frame_vectors(features: VideoFeatures) -> np.ndarray:
    """(N, T, D): the mean over tokens."""
    values = features.values
    return np.asarray(values.mean(axis=2) if values.ndim == 4 else values)


def _known_labels(features: VideoFeatures, split: str) -> list[str]:
    labels = [label for label in features.labels if label is not None]
    if missing := len(features.labels) - len(labels):
        path = features.paths[features.labels.index(None)]
        raise XViTError(
            f"{split} features: {missing} of {len(features.labels)} videos without a label, the first: {path}"
        )
    return labels
