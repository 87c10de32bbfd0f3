"""Choosing a way to fine-tune, and the whole run."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.color_videos import CLASSES, make_config, write_video, write_videos
from helpers.training_runs import same, weights
from xvit.data.annotations import read_class_folders
from xvit.experiments.finetune import run as finetune_run
from xvit.experiments.finetune import ways
from xvit.experiments.finetune.report import doubtful_videos
from xvit.experiments.finetune.run import FinetuneCallbacks, finetune
from xvit.experiments.finetune.ways import WAYS, choose_way, expected_seconds, way_recipe
from xvit.inference.predictor import Predictor
from xvit.training import cross_validate
from xvit.utils.errors import XViTError
from xvit.utils.intervals import paired_interval


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three classes of 4 clips, and one file that is no video."""
    root = tmp_path_factory.mktemp("clips")
    write_videos(root / "split", train=3, val=1)
    for split in ("train", "val"):
        for folder in (root / "split" / split).iterdir():
            (root / "clips" / folder.name).mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                file.rename(root / "clips" / folder.name / f"{split}{file.name}")
    (root / "clips" / "red" / "broken.mp4").write_bytes(b"no video")
    return root / "clips"


@pytest.fixture(autouse=True)
def few_trainings(monkeypatch):
    """Two folds, and the head in a few epochs."""
    monkeypatch.setattr(finetune_run, "MAX_FOLDS", 2)
    monkeypatch.setitem(ways.TRAIN, "head", {**ways.TRAIN["head"], "epochs": 3})


@pytest.fixture
def recipe(clips):
    return make_config(clips, epochs=1, warmup_epochs=0.0)


def test_a_folder_becomes_a_model(clips, recipe, tmp_path):
    output, messages = tmp_path / "out", []
    result = finetune(output, recipe, callbacks=FinetuneCallbacks(on_message=messages.append))
    assert set(result["ways"]) == set(WAYS)
    assert result["not_tried"] == {}
    assert result["classes"] == dict.fromkeys(CLASSES, 4)
    assert any("left out" in text and "broken.mp4" in text for text in messages)
    for way, values in result["ways"].items():
        rows = values["predictions"]
        assert sorted(row["id"] for row in rows) == sorted(s.id for s in usable(clips))
        assert values["top1"] == pytest.approx(sum(r["prediction"] == r["ground_truth"] for r in rows) / 12)
        assert len(values["folds"]) == 2
        assert json.loads((output / way / "folds.json").read_text())["top1"] == values["top1"]
    assert json.loads((output / "result.json").read_text()) == json.loads(json.dumps(result))
    report = (output / "report.md").read_text()
    assert f"Top-1 {100 * result['ways'][result['chosen']]['top1']:.1f} %" in report
    for picture in ("pictures/confusion.png", "pictures/doubtful.png"):
        assert f"({picture})" in report
        assert (output / picture).stat().st_size > 1000
    predictor = Predictor(result["model"])
    assert predictor.class_names == list(CLASSES)
    provenance = predictor.model.provenance
    assert provenance["data"]["train"] == 12  # all videos
    assert provenance["recipe"]["train"]["tune"] == result["chosen"]

    trained = []
    again = finetune(output, recipe, callbacks=FinetuneCallbacks(on_training=lambda *event: trained.append(event)))
    assert trained == []
    assert again == result
    with pytest.raises(XViTError, match="another recipe or other videos"):
        finetune(output, replace(recipe, train=replace(recipe.train, weight_decay=0.1)))


def usable(clips):
    splits = read_class_folders(clips)
    return [sample for sample in splits.train + splits.val if "broken" not in sample.id]


def test_a_stopped_run_goes_on(recipe, tmp_path):
    def stop(name, event):
        if name == "lora, fold 2 of 2" and event.stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "stopped", recipe, callbacks=FinetuneCallbacks(on_training=stop))
    names = set()
    callbacks = FinetuneCallbacks(on_training=lambda name, event: names.add(name))
    result = finetune(tmp_path / "stopped", recipe, callbacks=callbacks)
    assert "lora, fold 1 of 2" not in names
    assert not any(name.startswith("head") for name in names)
    whole = finetune(tmp_path / "whole", recipe)
    assert same(weights(tmp_path / "stopped" / "final" / "last"), weights(tmp_path / "whole" / "final" / "last"))
    for way in WAYS:
        assert result["ways"][way]["predictions"] == whole["ways"][way]["predictions"]


def test_ways_that_take_too_long_are_not_compared(recipe, tmp_path, monkeypatch):
    messages = []
    callbacks = FinetuneCallbacks(on_message=messages.append)
    monkeypatch.setattr(finetune_run, "time_clip", lambda model: 3600.0)
    result = finetune(tmp_path / "out", recipe, callbacks=callbacks)
    assert (list(result["ways"]), list(result["not_tried"]), result["chosen"]) == (["head"], ["lora", "full"], "head")
    assert any(text.startswith("lora: would take about") and "not compared" in text for text in messages)
    assert "not compared" in (tmp_path / "out" / "report.md").read_text()

    monkeypatch.setattr(finetune_run, "time_clip", lambda model: 0.0)  # a wrong estimate: the first fold corrects it
    messages.clear()
    spent = sum(fold["seconds"] for fold in result["ways"]["head"]["folds"])
    result = finetune(tmp_path / "out", recipe, minutes=(spent + 1e-4) / 60, callbacks=callbacks)
    assert list(result["ways"]) == ["head"]
    assert any(text.startswith("lora: after its first fold, it would take") for text in messages)
    assert not (tmp_path / "out" / "lora" / "fold_2").exists()

    result = finetune(tmp_path / "out", recipe, minutes=60, callbacks=callbacks)  # with more time it goes on
    assert list(result["ways"]) == list(WAYS)


def test_unusable_data_and_weights(recipe, tmp_path):
    few = tmp_path / "few"
    for name, number in (("a", 3), ("b", 1)):
        for index in range(number):
            write_video(few / name / f"{index}.mp4", color=0, seed=index)
    with pytest.raises(XViTError, match="fewer than 2 usable videos of b"):
        finetune(tmp_path / "out", replace(recipe, data=replace(recipe.data, root=str(few))))
    missing = replace(recipe, init=replace(recipe.init, checkpoint_path="none.safetensors"))
    with pytest.raises(XViTError, match=r"none\.safetensors.*--init motion, which comes with xvit"):
        finetune(tmp_path / "out", missing)
    assert not (tmp_path / "out").exists()


def test_the_recipes_of_the_ways():
    recipe = make_config("videos", mixup=0.4, layer_decay=0.5)
    head, lora, full = (way_recipe(recipe, way) for way in WAYS)
    assert full == recipe
    assert (head.train.tune, head.augment.mixup, lora.train.tune, lora.augment.mixup) == ("head", 0, "lora", 0.4)


def test_expected_times_count_passes(monkeypatch):
    monkeypatch.setitem(ways.TRAIN, "head", {**ways.TRAIN["head"], "epochs": 60})
    recipe = make_config("videos", epochs=10)
    times = {way: expected_seconds(recipe, way, videos=20, folds=5, clip_seconds=2.0) for way in WAYS}
    assert times["head"] == 2.0 * 20 * (4 + 1 + 1)
    assert times["full"] == 2.0 * (5 * (16 * 10 * 3) + 20 * 10 * 3 + 20)
    assert times["head"] < times["lora"] < times["full"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_paired_intervals(pairs):
    low, high = paired_interval(pairs)
    difference = sum(a - b for a, b in pairs) / len(pairs)
    assert -1 <= low < high <= 1
    assert low <= difference * len(pairs) / (len(pairs) + 2) <= high
    swapped = paired_interval([(b, a) for a, b in pairs])
    assert swapped == pytest.approx((-high, -low))


def test_a_paired_interval_by_hand():
    """10 items: 4 only the first, 1 only the second; (4.5 - 1.5) / 12 +- 1.96 sqrt(6 - 9 / 12) / 12."""
    pairs = [(True, False)] * 4 + [(False, True)] + [(True, True)] * 5
    assert paired_interval(pairs) == pytest.approx((-0.12424, 0.62424), abs=1e-4)


@pytest.mark.parametrize(("num_better", "chosen"), [(1, "head"), (12, "full")])
def test_the_cheapest_way_that_is_not_clearly_worse(clips, recipe, tmp_path, num_better, chosen):
    """Two made-up results on the same 12 videos: one is right on all, the other wrong on some."""
    data = replace(read_class_folders(clips), train=usable(clips), val=[])
    right = cross_validate(recipe, tmp_path / "cv", folds=2, data=data)
    samples = [replace(row, prediction=row.ground_truth) for row in right.result.samples]
    wrong = [replace(row, prediction="none") if i < num_better else row for i, row in enumerate(samples)]
    results = {
        "head": replace(right, result=replace(right.result, samples=wrong)),
        "full": replace(right, result=replace(right.result, samples=samples)),
    }
    way, comparisons = choose_way(results)
    assert way == chosen
    assert comparisons["head"].difference == pytest.approx(num_better / 12)
    assert comparisons["full"].difference == 0


def test_doubtful_videos_have_the_lowest_scores_of_their_class(clips, recipe, tmp_path):
    data = replace(read_class_folders(clips), train=usable(clips), val=[])
    validation = cross_validate(recipe, tmp_path / "cv", folds=2, data=data)
    rows = doubtful_videos(validation)
    own = {
        sample.id: float(scores[sample.label])
        for sample, scores in zip(validation.scored.samples, validation.scored.scores["label"], strict=True)
    }
    assert [row["id"] for row in rows] == sorted(own, key=own.get)[:8]
    assert torch.tensor([row["own_score"] for row in rows]).diff().ge(0).all()
