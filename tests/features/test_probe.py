"""Probes of made features against counting by hand."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.color_videos import CLIP
from xvit.cli.main import main
from xvit.config import to_dict
from xvit.features.probe import probe
from xvit.features.storage import Features, write
from xvit.utils.errors import XViTError


def made(values, labels, level="clip", **other) -> Features:
    """Features as if of a model."""
    values = np.asarray(values, np.float32)
    names = {"paths": tuple(f"{i}.mp4" for i in range(len(values))), "labels": tuple(labels)}
    return Features(**{"values": values, "level": level, "model": "m", "clip": CLIP} | names | other)


def clouds(per_class: int, seed: int, spread: float = 1.0, classes: int = 7, D: int = 6):
    """Values around a centre for each class, and labels."""
    centres = np.random.default_rng(0).normal(size=(classes, D))
    y = np.repeat(np.arange(classes), per_class)
    return centres[y] + spread * np.random.default_rng(seed).normal(size=(len(y), D)), [f"c{label}" for label in y]


def vote(values, labels, query, k) -> list[str]:
    """Classes by the votes of the k nearest, best first; those without a vote are left out."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    nearest = sorted(((cosine(row, query), label) for row, label in zip(values, labels, strict=True)), reverse=True)[:k]
    votes = {}
    for similarity, label in nearest:
        votes[label] = votes.get(label, 0) + 1 / (1 - similarity)
    return sorted(votes, key=lambda label: -votes[label])


def separate(x, y, C, x_test) -> list[int]:
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


def test_both_count_as_one_does_by_hand():
    (x, labels), (x_test, truths) = clouds(8, seed=1), clouds(5, seed=2)
    told = []
    result = probe(made(x, labels), made(x_test, truths), k=9, on_progress=lambda *now: told.append(now))
    ranked = [vote(x, labels, row, 9) for row in x_test]
    assert result.knn.top1 == np.mean([names[0] == truth for names, truth in zip(ranked, truths, strict=True)])
    assert result.knn.top5 == np.mean([truth in names[:5] for names, truth in zip(ranked, truths, strict=True)])
    assert 1 / 7 < result.knn.top1 < result.knn.top5 < 1
    assert result.C in (0.001, 0.01, 0.1, 1, 10)
    said = separate(x, torch.tensor([int(label[1:]) for label in labels]), result.C, x_test)
    share = np.mean([f"c{label}" == truth for label, truth in zip(said, truths, strict=True)])
    assert result.linear.top1 == pytest.approx(share, abs=1.01 / 35)  # one may lie on the border
    assert 1 / 7 < result.linear.top1 < result.linear.top5 <= 1
    assert (result.k, result.classes, result.train_videos, result.test_videos, result.averaged) == (9, 7, 56, 35, None)
    assert told == [(step, 6) for step in range(1, 7)]


def test_what_is_easy_is_found_whatever_the_order_of_the_videos():
    (x, labels), (x_test, truths) = clouds(6, seed=1, spread=0.01), clouds(2, seed=2, spread=0.01)
    result = probe(made(x, labels), made(x_test[::-1], truths[::-1]), k=3)
    assert result.knn.top1 == result.linear.top1 == result.linear.top5 == 1
    single = probe(made(x[::6], labels[::6]), made(x_test, truths), k=1)  # nothing to hold out
    assert (single.knn.top1, single.linear.top1, single.C) == (1, 1, 1)
    assert probe(made(x[:12], labels[:12]), made(x_test[:4], truths[:4]), k=2).knn.top5 is None  # of two classes


def test_the_test_videos_do_not_choose():
    x, labels = clouds(6, seed=1)
    x_test, truths = clouds(3, seed=2)
    wrong = [*truths[3:], *truths[:3]]
    results = [probe(made(x, labels), made(x_test, names), k=5) for names in (truths, wrong)]
    assert results[0].C == results[1].C
    assert results[0].linear.top1 > results[1].linear.top1


def test_frames_and_tokens_are_averaged():
    both = (clouds(6, seed=1), clouds(3, seed=2))
    plain = probe(*(made(*one) for one in both), k=5)
    offsets = np.array([-1.0, 0.25, 0.75])[:, None]  # adds up to nothing
    frames = [made(rows[:, None] + offsets, names, "frames") for rows, names in both]
    assert probe(*frames, k=5) == replace(plain, averaged="frames")
    tokens = [made(np.repeat(one.values[:, :, None], 2, axis=2), one.labels, "tokens") for one in frames]
    assert probe(*tokens, k=5) == replace(plain, averaged="tokens")


def test_what_is_refused(monkeypatch):
    x, labels = clouds(3, seed=1)
    train, spoilt = made(x, labels), x.copy()
    spoilt[4, 2] = np.nan
    for test, said in (
        (made(x, [None, *labels[1:]]), "test features: 1 of 21 videos without a label, the first: 0.mp4"),
        (made(x, ["cc0", *labels[1:]]), '0.mp4: class "cc0" is not in the training features. Did you mean "c0"?'),
        (made(x[:, None], labels, "frames"), "of level clip, test features of level frames: expected the same"),
        (made(x, labels, model="n"), "of model m, test features of model n"),
        (made(x, labels, clip=replace(CLIP, num_frames=8)), "features of clip ClipSpec"),
        (made(spoilt, labels), "4.mp4: a feature that is not a finite number"),
    ):
        with pytest.raises(XViTError) as error:
            probe(train, test, k=3)
        assert said in str(error.value)
    with pytest.raises(XViTError, match="k=22: more than the 21 training videos"):
        probe(train, train, k=22)
    with pytest.raises(XViTError, match='one class alone, "c0"'):
        probe(made(x[:3], labels[:3]), train, k=2)
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(XViTError, match=r"scikit-learn is not installed: pip install 'xvit\[features\]'"):
        probe(train, train, k=2)


def test_the_command(tmp_path, capfd):
    files = []
    for name, per_class, seed in (("train", 4, 1), ("test", 2, 2)):
        values, labels = clouds(per_class, seed=seed, spread=0.01)
        one = made(values[:, None], labels, "frames")
        (tmp_path / "raw").write_bytes(one.values.tobytes())
        about = {"format": 1, "level": "frames", "model": "m", "clip": to_dict(CLIP)}
        files.append(str(tmp_path / f"{name}.parquet"))
        write(
            tmp_path / f"{name}.parquet",
            tmp_path / "raw",
            one.values.shape,
            about | {"paths": one.paths, "labels": one.labels},
        )

    def run(*words):
        return main(["probe", *words]), *capfd.readouterr()

    code, out, err = run(*files, "--k", "3")
    assert (code, err) == (0, "")
    for said in ("3 nearest neighbours", "linear layer, C = ", "100.00 %", "frames averaged to one vector a video"):
        assert said in out
    assert "7 classes, 28 training videos, 14 test videos" in out
    code, out, err = run(*files, "--k", "3", "--seed", "4", "--json")
    told = json.loads(out)
    assert (code, err, told["knn"], told["averaged"]) == (0, "", {"top1": 1.0, "top5": 1.0}, "frames")
    assert run(*files, "--k", "29")[::2] == (
        2,
        "xvit: error: k=29: more than the 28 training videos; take a smaller one\n",
    )
    assert "TEST_FEATURES: missing" in run(files[0])[2]
    assert "none.npy: no such file" in run("none.npy", files[0])[2]
