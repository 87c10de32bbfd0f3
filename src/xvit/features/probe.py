"""How well features tell classes apart without further training: k nearest neighbours and a linear layer."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xvit.features.storage import Features
from xvit.utils.errors import XViTError, check_range, did_you_mean, import_optional

_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression: the larger, the weaker the regularisation
_HELD_OUT = 0.2  # share of each class that chooses among them


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of the test videos, in [0, 1].

    Args:
        top1: whose class has the highest score.
        top5: whose class is among the five highest, and got a score at all; None for five classes or fewer.
    """

    top1: float
    top5: float | None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `probe` found.

    Args:
        knn: of the k nearest neighbours.
        linear: of the linear layer.
        k: neighbours.
        C: inverse strength of the linear layer's regularisation, as chosen.
        averaged: what was averaged to one vector a video: frames, tokens, or None.
        classes: number of classes.
        train_videos: number of training videos.
        test_videos: number of test videos.
    """

    knn: Accuracy
    linear: Accuracy
    k: int
    C: float
    averaged: str | None
    classes: int
    train_videos: int
    test_videos: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def probe(
    train: Features,
    test: Features,
    *,
    k: int = 20,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Classify test videos by their features and those of labelled training videos.

    The k training videos with the highest cosine similarity vote, each with 1 / (1 - similarity). The linear layer is
    a logistic regression on standardised features; a fifth of each class of the training videos chooses its
    regularisation, then it is fitted to all of them.

    Args:
        train: features to learn from, labelled; frames and tokens are averaged to one vector a video.
        test: features of the same model, clip and level, labelled with classes of `train`.
        k: neighbours.
        seed: of the choice of that fifth.
        on_progress: called with the number of steps done and of all steps.

    Raises:
        XViTError: features of another level, model or clip, a video without a label or of a class not trained on, a
            single class, more neighbours than videos, a feature that is not finite, no scikit-learn.
    """
    check_range("k", k, 1)
    check_range("seed", seed, 0)
    if k > len(train.paths):
        raise XViTError(f"k={k}: more than the {len(train.paths)} training videos; take a smaller one")
    for name in ("level", "model", "clip"):
        if getattr(train, name) != getattr(test, name):
            one, other = getattr(train, name), getattr(test, name)
            raise XViTError(f"training features of {name} {one}, test features of {name} {other}: expected the same")
    names, truths = _labels(train, "training"), _labels(test, "test")
    classes = sorted(set(names))
    if len(classes) == 1:
        raise XViTError(f'training features: one class alone, "{classes[0]}": expected two or more')
    for name, path in zip(truths, test.paths, strict=True):
        if name not in classes:
            raise XViTError(f'{path}: class "{name}" is not in the training features.{did_you_mean(name, classes)}')
    x, y = _vectors(train), np.searchsorted(classes, names)  # (N, D), (N,)
    x_test, y_test = _vectors(test), np.searchsorted(classes, truths)
    neighbors = import_optional("sklearn.neighbors", extra="features").KNeighborsClassifier(
        k, weights="distance", metric="cosine"
    )
    knn = _accuracy(neighbors.fit(x, y).predict_proba(x_test), y_test)
    held_out, shares = _held_out(y, seed), []
    for done, C in enumerate(_STRENGTHS, start=1):
        if held_out.any():
            shares.append(_linear(x[~held_out], y[~held_out], C).score(x[held_out], y[held_out]))
        if on_progress is not None:
            on_progress(done, len(_STRENGTHS) + 1)
    best = _STRENGTHS[int(np.argmax(shares))] if shares else 1.0  # of equally good ones the strongest regularisation
    linear = _accuracy(_linear(x, y, best).predict_proba(x_test), y_test)
    if on_progress is not None:
        on_progress(len(_STRENGTHS) + 1, len(_STRENGTHS) + 1)
    return Probe(
        knn=knn,
        linear=linear,
        k=k,
        C=best,
        averaged=None if train.level == "clip" else train.level,
        classes=len(classes),
        train_videos=len(x),
        test_videos=len(x_test),
    )


def _linear(x: np.ndarray, y: np.ndarray, C: float) -> Any:
    scale = import_optional("sklearn.preprocessing", extra="features").StandardScaler()
    regression = import_optional("sklearn.linear_model", extra="features").LogisticRegression(C=C, max_iter=1000)
    with warnings.catch_warnings():  # one that has not wholly converged measures as well
        warnings.simplefilter("ignore", import_optional("sklearn.exceptions", extra="features").ConvergenceWarning)
        return import_optional("sklearn.pipeline", extra="features").make_pipeline(scale, regression).fit(x, y)


def _accuracy(scores: np.ndarray, truth: np.ndarray) -> Accuracy:
    """Of scores (N, classes) and classes (N,)."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]  # (N, up to 5)
    hits = (top == truth[:, None]) & (np.take_along_axis(scores, top, axis=1) > 0)
    return Accuracy(top1=float(hits[:, 0].mean()), top5=float(hits.any(axis=1).mean()) if scores.shape[1] > 5 else None)


def _held_out(y: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: a fifth of each class, at least one video; none of a class that has a single one."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in range(y.max() + 1):
        places = rng.permutation(np.flatnonzero(y == label))
        if len(places) > 1:
            chosen[places[: max(round(_HELD_OUT * len(places)), 1)]] = True
    return chosen


def _vectors(features: Features) -> np.ndarray:
    """(N, D): the mean over frames and tokens."""
    vectors = np.asarray(features.values.mean(axis=tuple(range(1, features.values.ndim - 1))))
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise XViTError(f"{features.paths[int(finite.argmin())]}: a feature that is not a finite number")
    return vectors


def _labels(features: Features, which: str) -> list[str]:
    known = [label for label in features.labels if label is not None]
    if len(known) < len(features.labels):
        path = features.paths[features.labels.index(None)]
        missing = f"{len(features.labels) - len(known)} of {len(features.labels)} videos without a label"
        raise XViTError(f"{which} features: {missing}, the first: {path}")
    return known
