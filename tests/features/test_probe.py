"""Probing of made-up features against naive computations."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.color_videos import CLIP
from helpers.features import make_clusters, make_features
from xvit.features import ProbeResult, probe_features
from xvit.utils.errors import XViTError


def run_probe(train, test, **options) -> ProbeResult:
    """Probe features given as (values, labels)."""
    return probe_features(make_features(*train), make_features(*test), **options)


def naive_knn(values, labels, query, k) -> list[str]:
    """Classes by the votes of the k nearest rows, best first; classes without a vote are left out."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    nearest = sorted(((cosine(row, query), label) for row, label in zip(values, labels, strict=True)), reverse=True)[:k]
    votes = {}
    for similarity, label in nearest:
        votes[label] = votes.get(label, 0) + 1 / (1 - similarity)
    return sorted(votes, key=lambda label: -votes[label])


def naive_linear(x, y, C, x_test) -> list[int]:
    """Classes of the test rows by a logistic regression: min |W|^2 / 2 + C sum of losses, on standardised rows."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, x_test = (torch.from_numpy((rows - mean) / std) for rows in (x, x_test))
    W = torch.zeros(x.shape[1], int(y.max()) + 1, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(int(y.max()) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = W.square().sum() / 2 + C * torch.nn.functional.cross_entropy(x @ W + b, y, reduction="sum")
        total.backward()
        return total

    optimizer.step(loss)
    return (x_test @ W + b).argmax(dim=1).tolist()


def test_accuracies_equal_naive_computations():
    (x, labels), (x_test, test_labels) = make_clusters(8, seed=1), make_clusters(5, seed=2)
    progress = []
    result = run_probe((x, labels), (x_test, test_labels), k=9, on_progress=lambda *steps: progress.append(steps))
    ranked = [naive_knn(x, labels, row, 9) for row in x_test]
    assert result.knn.top1 == np.mean([names[0] == label for names, label in zip(ranked, test_labels, strict=True)])
    assert result.knn.top5 == np.mean([label in names[:5] for names, label in zip(ranked, test_labels, strict=True)])
    assert 1 / 7 < result.knn.top1 < result.knn.top5 < 1
    assert result.C in (0.001, 0.01, 0.1, 1, 10)
    predicted = naive_linear(x, torch.tensor([int(label[1:]) for label in labels]), result.C, x_test)
    share = np.mean([f"c{index}" == label for index, label in zip(predicted, test_labels, strict=True)])
    assert result.linear.top1 == pytest.approx(share, abs=1.01 / 35)  # one video may lie on the border
    assert 1 / 7 < result.linear.top1 < result.linear.top5 <= 1
    assert (result.k, result.classes, result.train_videos, result.test_videos, result.averaged) == (9, 7, 56, 35, None)
    assert progress == [(step, 6) for step in range(1, 7)]


def test_separate_clusters_are_classified_in_any_order_of_the_videos():
    (x, labels), (x_test, test_labels) = make_clusters(6, seed=1, spread=0.01), make_clusters(2, seed=2, spread=0.01)
    result = run_probe((x, labels), (x_test[::-1], test_labels[::-1]), k=3)
    assert result.knn.top1 == result.linear.top1 == result.linear.top5 == 1
    single = run_probe((x[::6], labels[::6]), (x_test, test_labels), k=1)  # no videos to hold out
    assert (single.knn.top1, single.linear.top1, single.C) == (1, 1, 1)
    two_classes = run_probe((x[:12], labels[:12]), (x_test[:4], test_labels[:4]), k=2)
    assert two_classes.knn.top5 is None


def test_the_test_videos_do_not_affect_the_regularisation():
    x, labels = make_clusters(6, seed=1)
    x_test, test_labels = make_clusters(3, seed=2)
    wrong = [*test_labels[3:], *test_labels[:3]]
    results = [run_probe((x, labels), (x_test, names), k=5) for names in (test_labels, wrong)]
    assert results[0].C == results[1].C
    assert results[0].linear.top1 > results[1].linear.top1


def test_frames_and_tokens_are_averaged():
    both = (make_clusters(6, seed=1), make_clusters(3, seed=2))
    expected = run_probe(*both, k=5)
    offsets = np.array([-1.0, 0.25, 0.75])[:, None]  # sums to zero
    frames = [make_features(rows[:, None] + offsets, names, "frames") for rows, names in both]
    assert without_attentive(probe_features(*frames, k=5)) == replace(expected, averaged="frames")
    tokens = [make_features(np.repeat(one.values[:, :, None], 2, axis=2), one.labels, "tokens") for one in frames]
    assert without_attentive(probe_features(*tokens, k=5)) == replace(expected, averaged="tokens")


def without_attentive(result) -> ProbeResult:
    assert result.attentive is not None
    return replace(result, attentive=None, weight_decay=None)


def make_ordered(per_class, *, seed, frames=4, dim=12):
    """Videos whose class is the order of the same frames: rising along a direction, or falling, in noise."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(0).normal(size=dim)
    ramp = np.linspace(-1, 1, frames)[:, None] * direction
    values = [sign * ramp + 0.3 * rng.normal(size=(frames, dim)) for sign in (1, -1) for _ in range(per_class)]
    return np.stack(values), ["rising"] * per_class + ["falling"] * per_class


def test_the_attentive_probe_knows_the_order_of_the_frames():
    train, test = (make_features(*make_ordered(20, seed=seed), "frames") for seed in (1, 2))
    progress = []
    result = probe_features(train, test, k=5, on_progress=lambda *steps: progress.append(steps))
    assert result.attentive.top1 >= 0.95
    assert result.linear.top1 <= 0.75  # the mean over the frames is noise
    assert result.weight_decay in (0.01, 0.1, 1)
    assert progress == [(step, 10) for step in range(1, 11)]
    assert probe_features(train, test, k=5) == result
    tokens = [
        make_features(np.repeat(one.values[:, :, None], 2, axis=2), one.labels, "tokens") for one in (train, test)
    ]
    assert probe_features(*tokens, k=5).attentive.top1 >= 0.95


def test_the_test_videos_do_not_affect_the_attentive_probe():
    train = make_features(*make_ordered(8, seed=1), "frames")
    values, labels = make_ordered(6, seed=2)
    right = probe_features(train, make_features(values, labels, "frames"), k=5)
    wrong = probe_features(train, make_features(values, labels[::-1], "frames"), k=5)
    assert right.weight_decay == wrong.weight_decay
    assert right.attentive.top1 == pytest.approx(1 - wrong.attentive.top1)


def test_features_of_clips_have_no_attentive_probe():
    result = run_probe(make_clusters(3, seed=1), make_clusters(2, seed=2), k=3)
    assert result.attentive is None
    assert result.weight_decay is None


def test_features_that_do_not_match(monkeypatch):
    x, labels = make_clusters(3, seed=1)
    train, invalid = make_features(x, labels), x.copy()
    invalid[4, 2] = np.nan
    for test, message in (
        (make_features(x, [None, *labels[1:]]), "test features: 1 of 21 videos without a label, the first: 0.mp4"),
        (
            make_features(x, ["cc0", *labels[1:]]),
            '0.mp4: class "cc0" is not in the training features. Did you mean "c0"?',
        ),
        (
            make_features(x[:, None], labels, "frames"),
            "training features have level clip, test features have frames: expected the same",
        ),
        (make_features(x, labels, model_hash="n"), "training features have model_hash m, test features have n"),
        (make_features(x, labels, clip_spec=replace(CLIP, num_frames=8)), "training features have clip_spec ClipSpec"),
        (make_features(invalid, labels), "4.mp4: a feature is not a finite number"),
    ):
        with pytest.raises(XViTError) as error:
            probe_features(train, test, k=3)
        assert message in str(error.value)
    with pytest.raises(XViTError, match="k=22: more than the 21 training videos"):
        probe_features(train, train, k=22)
    with pytest.raises(XViTError, match='only one class, "c0"'):
        probe_features(make_features(x[:3], labels[:3]), train, k=2)
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(XViTError, match=r"scikit-learn is not installed: pip install 'xvit\[features\]'"):
        probe_features(train, train, k=2)
