"""Classes that do not exclude each other: lists, targets, loss, scores, mean average precision, the commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from xvit.evaluation.multi_view import ScoredVideos

from helpers.color_videos import CLIP, MODEL, write_video
from xvit.config import AugmentConfig, DataConfig, ModelConfig, to_dict
from xvit.data.annotations.finder import VideoFinder
from xvit.data.annotations.lists import read_list, read_multi_label_list, write_list
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.evaluation.multi_label import measure_multi_label
from xvit.inference.predictor import Predictor
from xvit.training.losses import classification_loss
from xvit.training.mixup import mix_batch
from xvit.utils.errors import XViTError


def listed(tmp_path: Path, text: str, **options):
    (tmp_path / "list.txt").write_text(text)
    return read_multi_label_list(tmp_path / "list.txt", VideoFinder(tmp_path), **options)


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0 2\nb c.mp4 1\nd.mp4\n",  # MMAction2's way, and a path with a space
        "a.mp4,0,2\nb c.mp4,1\nd.mp4\n",
        "a.mp4\t0\t2\nb c.mp4\t1\nd.mp4\n",
        "a.mp4\t0;2\nb c.mp4\t1\nd.mp4\t\n",
        "a.mp4 2;0;2\n\nb c.mp4 1\nd.mp4\n",  # no label twice
        'path,labels\na.mp4,"0;2"\n"b c.mp4",1\nd.mp4,\n',  # as spreadsheets write it
        '"a.mp4" 0 2\n"b c.mp4" 1\n"d.mp4"\n',
    ],
)
def test_lists(text, tmp_path):
    for name in ("a.mp4", "b c.mp4", "d.mp4"):
        (tmp_path / name).write_bytes(b"video")
    found = listed(tmp_path, text)
    assert [(sample.id, sample.label) for sample in found.samples] == [
        ("a.mp4", (0, 2)),
        ("b c.mp4", (1,)),
        ("d.mp4", ()),
    ]
    assert found.class_names == ["0", "1", "2"]
    named = listed(tmp_path, text, labels=["jump", "run", "swim"])
    assert named.labels == ["jump", "run", "swim"]
    assert [sample.label for sample in named.samples] == [(0, 2), (1,), ()]


def test_names_and_videos_that_are_not_there(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"video")
    found = listed(tmp_path, "a.mp4,run,high jump\ngone.mp4,swim\n")
    assert found.class_names == ["high jump", "run", "swim"]
    assert [sample.label for sample in found.samples] == [(0, 1)]
    assert (found.missing, found.missing_rows) == (["gone.mp4"], 1)
    with pytest.raises(XViTError, match=r'list.txt line 1: label "high jump" is not one of the 2.*'):
        listed(tmp_path, "a.mp4,run,high jump\n", labels=["run", "swim"])
    with pytest.raises(XViTError, match=r"line 1: label 7: expected a number from 0 to 1"):
        listed(tmp_path, "a.mp4 7\n", labels=["run", "swim"])
    with pytest.raises(XViTError, match="no labels in it"):
        listed(tmp_path, "a.mp4\n")
    with pytest.raises(XViTError, match="no videos in it"):
        listed(tmp_path, "\n")


def test_a_written_list_is_read_again(tmp_path):
    labels = {"a.mp4": (0, 2), "b c.mp4": (1,), " d.mp4": (), '"e", f.mp4': (0, 1)}
    for name in labels:
        (tmp_path / name).write_bytes(b"video")
    samples = [Sample(path=str(tmp_path / name), label=label, id=name) for name, label in labels.items()]
    write_list(tmp_path / "list.txt", samples, tmp_path)
    again = read_multi_label_list(tmp_path / "list.txt", VideoFinder(tmp_path), labels=["x", "y", "z"]).samples
    assert [(sample.path, sample.label) for sample in again] == [(sample.path, sample.label) for sample in samples]


def test_targets_loss_and_mixing(tmp_path):
    video = str(write_video(tmp_path / "a.mp4", color=0, seed=0))
    samples = [Sample(path=video, label=label, id=str(i)) for i, label in enumerate([(0, 2), (), (1,)])]
    dataset = VideoDataset(samples=samples, clip_spec=CLIP, augment=AugmentConfig(), class_names=["x", "y", "z"])
    batch = next(iter(make_loader(dataset, batch_size=3)))
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert torch.equal(batch["labels"], targets)
    with pytest.raises(XViTError, match="need the class names"):
        VideoDataset(samples=samples, clip_spec=CLIP)
    logits = torch.randn(3, 3)
    expected = 0.0
    for row, wanted in zip(logits.double().tolist(), targets.tolist(), strict=True):
        for value, target in zip(row, wanted, strict=True):
            score, target = 1 / (1 + math.exp(-value)), 0.8 * target + 0.1
            expected -= (target * math.log(score) + (1 - target) * math.log(1 - score)) / 9
    assert classification_loss(logits, targets, 0.2, multi_label=True).item() == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(0)
    pixels = torch.rand(3, 4, 3, 8, 8)
    mixed, shares = mix_batch(pixels, targets, 3, mixup=1.0, cutmix=0.0)
    share = ((mixed - pixels.roll(1, 0)) / (pixels - pixels.roll(1, 0)))[0, 0, 0, 0, 0]
    torch.testing.assert_close(shares, share * targets + (1 - share) * targets.roll(1, 0), atol=1e-4, rtol=1e-4)


def naive_precision(scores, truth) -> float:
    """Mean, over the videos of the class, of the share of its videos among those that score at least as high."""
    hits = [score for score, true in zip(scores, truth, strict=True) if true]
    shares = []
    for threshold in hits:
        above = [true for score, true in zip(scores, truth, strict=True) if score >= threshold]
        shares.append(sum(above) / len(above))
    return sum(shares) / len(hits)


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 4))
def test_average_precision(seed, videos, classes):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(videos * classes).reshape(videos, classes) / (videos * classes)  # no two alike
    truth = rng.random((videos, classes)) < 0.4
    samples = [Sample(path="v", label=tuple(np.flatnonzero(row).tolist()), id=str(i)) for i, row in enumerate(truth)]
    names = [f"c{k}" for k in range(classes)]
    result = measure_multi_label(
        ScoredVideos(
            samples=samples,
            scores={None: torch.tensor(scores)},
            class_names=names,
            failures=[("bad", "bad.mp4", "no video")],
            temporal_views=1,
            spatial_views=1,
            seconds=1.0,
        )
    )
    expected = [naive_precision(scores[:, k], truth[:, k]) if truth[:, k].any() else None for k in range(classes)]
    for name, value in zip(names, expected, strict=True):
        assert result.average_precision[name] == (None if value is None else pytest.approx(value, abs=1e-6))
    known = [value for value in expected if value is not None]
    assert result.mean_average_precision == pytest.approx(sum(known) / len(known) if known else 0, abs=1e-6)
    assert (result.expected, result.videos) == (videos + 1, videos)


def test_settings_that_do_not_go_together():
    with pytest.raises(XViTError, match="multi_label=True with format='ssv2'"):
        DataConfig(multi_label=True, format="ssv2")
    with pytest.raises(XViTError, match="multi_label=True with several tasks"):
        ModelConfig(multi_label=True, num_classes={"verb": 2})


def test_from_list_to_prediction(run, refused, tmp_path):
    """Bright colours, alone and two at a time: trained, measured, predicted by the commands."""
    lines = []
    for number in range(12):
        write_video(tmp_path / "videos" / f"{number}.mp4", color=number % 3, seed=number)
        lines.append(f"{number}.mp4 {['blue', 'green', 'red'][2 - number % 3]}{' warm' * (number % 3 < 2)}")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = {"root": str(tmp_path / "videos"), "format": "list", "multi_label": True, "num_workers": 0}
    data |= {"train": str(tmp_path / "list.txt"), "val": str(tmp_path / "list.txt")}
    recipe = {"model": to_dict(MODEL), "clip": to_dict(CLIP), "data": data}
    recipe |= {"train": {"epochs": 6, "batch_size": 4, "lr": 0.01, "warmup_epochs": 1}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = run("train", "--config", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert code == 0, err
    assert "mAP" in out
    assert "top-1" not in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(row["map"] for row in rows if row["stage"] == "eval")
    words = ["eval", "--checkpoint", tmp_path / "run" / "best", "--data.root", data["root"], "--data.format", "list"]
    words += ["--data.val", data["val"], "--data.multi_label", "true"]
    code, out, err = run(*words, "--output", tmp_path / "result", "--json")
    assert code == 0, err
    assert json.loads(out)["mean_average_precision"] == pytest.approx(best)
    assert best > 0.6  # by chance about 0.4
    assert (tmp_path / "result" / "per_class.png").exists()
    said = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert said[0]["truth"] == ["red", "warm"]
    model = Predictor(tmp_path / "run" / "best")
    prediction = model(tmp_path / "videos" / "0.mp4")
    assert dict(zip(prediction.labels, prediction.scores, strict=True)) == pytest.approx(said[0]["scores"], abs=1e-5)
    code, out, err = run(*words)
    assert "average precision" in out
    assert "mAP" in out
    message = refused("timeline", tmp_path / "videos" / "0.mp4", "--checkpoint", tmp_path / "run" / "best")
    assert "a multi-label model" in message
    (tmp_path / "list.txt").write_text("0.mp4 red\n1.mp4 green\n")
    assert "several labels a video: data.multi_label" in refused(*words[:-2])


def test_one_label_lists_stay_as_they_are(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "list.txt").write_text("a.mp4 1\n")
    assert read_list(tmp_path / "list.txt", VideoFinder(tmp_path)).samples[0].label == 1
