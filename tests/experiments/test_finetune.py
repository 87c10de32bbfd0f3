"""Choosing a way to fine-tune, and the whole run."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.color_videos import CLASSES, make_config, write_video, write_videos
from helpers.training_runs import same, weights
from xvit.config import SINGLE_TASK
from xvit.data.annotations import read_class_folders
from xvit.evaluation.calibration import calibrate_scores, fit_temperature
from xvit.experiments.finetune import run as finetune_run
from xvit.experiments.finetune import ways
from xvit.experiments.finetune.report import doubtful_videos, next_commands
from xvit.experiments.finetune.run import FinetuneCallbacks, finetune
from xvit.experiments.finetune.ways import WAYS, choose_way, expected_seconds, way_recipe
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.training import cross_validate
from xvit.training.frame_cache import FrameCache
from xvit.utils.errors import XViTError
from xvit.utils.intervals import paired_interval

WIDTH = 16  # of the model of `make_config`


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


@pytest.fixture(scope="module", autouse=True)
def few_trainings():
    """Two folds, and few updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_run, "MAX_FOLDS", 2)
        patch.setattr(ways, "UPDATES", 3)
        yield


@pytest.fixture(scope="module")
def recipe(clips):
    return make_config(clips, epochs=1, warmup_epochs=0.0)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """The folder of a finished run, what it returned, and its messages."""
    output, messages = tmp_path_factory.mktemp("finished") / "out", []
    result = finetune(output, recipe, callbacks=FinetuneCallbacks(on_message=messages.append))
    return output, result, messages


@pytest.fixture(scope="module")
def validation(finished, recipe, clips):
    """The cross-validation of the head in it."""
    config = way_recipe(recipe, "head", videos=12, width=WIDTH)
    data = replace(read_class_folders(clips), train=usable(clips), val=[])
    return cross_validate(config, finished[0] / "head", folds=2, resume=True, data=data)


def usable(clips):
    splits = read_class_folders(clips)
    return [sample for sample in splits.train + splits.val if "broken" not in sample.id]


def test_a_folder_becomes_a_model(clips, recipe, finished):
    output, result, messages = finished
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
    assert [name for name in result["left_out"] if "broken.mp4" in name and "unreadable" in name]
    assert f"Left out:\n\n- {result['left_out'][0]}\n" in report
    assert f"Top-1 {100 * result['ways'][result['chosen']]['top1']:.1f} %" in report
    for picture in ("pictures/confusion.png", "pictures/doubtful.png"):
        assert f"({picture})" in report
        assert (output / picture).stat().st_size > 1000
    predictor = Predictor(result["model"])
    assert predictor.class_names == list(CLASSES)
    provenance = predictor.model.provenance
    assert provenance["data"]["train"] == 12  # all videos
    assert provenance["recipe"]["train"]["tune"] == result["chosen"]


def test_only_models_that_can_be_streamed_are_said_to_be(finished, tmp_path):
    _, result, _ = finished
    model = XViT.from_pretrained(result["model"])
    for position, command in (("head", "stream"), ("input", "timeline")):
        changed = XViT(replace(model.config, temporal_position=position))
        changed.clip_spec, changed.class_names = model.clip_spec, model.class_names
        changed.save_pretrained(tmp_path / position)
        commands = next_commands(result | {"model": str(tmp_path / position)})
        assert [text.split()[1] for text in commands] == ["predict", command, "export"]


def test_few_videos_cannot_calibrate_the_model(finished):
    output, result, messages = finished
    assert result["calibration"] is None
    assert any("not calibrated" in text and "expected at least 20" in text for text in messages)
    assert "Not calibrated: too few" in (output / "report.md").read_text()
    assert Predictor(result["model"]).model.calibration == {}


def test_the_model_is_calibrated_by_the_predictions_of_the_folds(
    recipe, clips, finished, validation, no_drawing, monkeypatch, tmp_path
):
    config = way_recipe(recipe, "head", videos=12, width=WIDTH)
    data = replace(read_class_folders(clips), train=usable(clips), val=[])
    frames = FrameCache(tmp_path / "frames", train=data.train, val=data.train)
    output = shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.setattr(finetune_run, "calibrate_scores", partial(calibrate_scores, keep=0.5))
    monkeypatch.setattr(finetune_run, "choose_way", lambda results: ("head", choose_way(results)[1]))
    result = finetune(output, recipe)
    stored = Predictor(result["model"]).model.calibration[SINGLE_TASK]
    scores = validation.scored.scores[SINGLE_TASK]
    targets = torch.tensor([sample.label for sample in validation.scored.samples])
    assert stored.temperature == pytest.approx(fit_temperature(scores, targets))
    assert stored.videos == 12
    assert result["calibration"]["energy_threshold"] == stored.energy_threshold
    assert f"temperature of {stored.temperature:.2f}" in (output / "report.md").read_text()
    model = XViT.from_pretrained(result["model"])  # the calibration that it has by now is not used for the next
    model.calibration[SINGLE_TASK] = replace(stored, temperature=50.0)
    model.save_pretrained(tmp_path / "hot")
    plain, hot = (
        finetune_run._score_training_videos(path, config, data, frames).scores[SINGLE_TASK]
        for path in (Path(result["model"]), tmp_path / "hot")
    )
    assert torch.equal(plain, hot)


def test_a_finished_run_is_not_repeated(recipe, finished, no_drawing):
    output, result, _ = finished
    trained = []
    again = finetune(output, recipe, callbacks=FinetuneCallbacks(on_training=lambda *event: trained.append(event)))
    assert trained == []
    assert again == result
    with pytest.raises(XViTError, match="another recipe or other videos"):
        finetune(output, replace(recipe, train=replace(recipe.train, weight_decay=0.1)))


def test_a_stopped_run_goes_on(recipe, finished, tmp_path, monkeypatch, no_drawing):
    monkeypatch.setattr(finetune_run, "WAYS", ("head", "lora"))

    def stop(name, event):
        if name == "lora, fold 2 of 2" and event.stage == "train":
            raise KeyboardInterrupt

    output, whole, _ = finished
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "stopped", recipe, callbacks=FinetuneCallbacks(on_training=stop))
    names = set()
    callbacks = FinetuneCallbacks(on_training=lambda name, event: names.add(name))
    result = finetune(tmp_path / "stopped", recipe, callbacks=callbacks)
    assert "lora, fold 1 of 2" not in names
    assert not any(name.startswith("head") for name in names)
    assert same(weights(tmp_path / "stopped" / "final" / "last"), weights(output / "final" / "last"))
    for way in ("head", "lora"):
        assert result["ways"][way]["predictions"] == whole["ways"][way]["predictions"]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets; those of a clip are 1."""
    now = [0.0]
    monkeypatch.setattr(finetune_run, "monotonic", lambda: now[0])
    monkeypatch.setattr(finetune_run, "time_clip", lambda model: 1.0)
    return now


def test_ways_that_take_too_long_are_not_compared(recipe, tmp_path, clock, no_drawing):
    """By the estimate, the head takes 12 x (1 + 1) s and LoRA 12 x (2 x 2.5 + 1) s."""
    messages = []

    def run(minutes, *, check_seconds, step_seconds):
        def on_count(name, done, total):
            clock[0] += check_seconds * (done == total)

        def on_training(name, event):
            if name.startswith("lora") and event.stage == "train":
                clock[0] += step_seconds

        messages.clear()
        callbacks = FinetuneCallbacks(on_message=messages.append, on_count=on_count, on_training=on_training)
        return finetune(tmp_path / "out", recipe, minutes=minutes, callbacks=callbacks)

    result = run(minutes=1.5, check_seconds=60.0, step_seconds=0.0)
    assert (list(result["ways"]), result["chosen"]) == (["head"], "head")
    assert result["not_tried"]["lora"] == 72
    assert "head: 2 folds, expected to take about 24 s, more than the 20 s left; it is trained in any case" in messages
    assert "lora: would take about 72 s, more than the 20 s left: not compared" in messages
    assert "not compared" in (tmp_path / "out" / "report.md").read_text()

    # A step takes 60 s. After the 2 steps of the first fold, 2 of the other and 4 of the final training are left.
    result = run(minutes=6, check_seconds=0.0, step_seconds=60.0)
    assert list(result["ways"]) == ["head"]
    assert "lora: would take 6 minutes more, and 4 minutes are left: not compared" in messages
    assert not (tmp_path / "out" / "lora" / "fold_2").exists()


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


@pytest.mark.parametrize(("videos", "epochs"), [(60, 15), (61, 15), (64, 15), (65, 12), (1000, 4)])
def test_few_videos_need_more_epochs(monkeypatch, videos, epochs):
    """60 updates of 16 clips, in epochs of 4, 4, 4, 5 and 63 updates."""
    monkeypatch.setattr(ways, "UPDATES", 60)
    recipe = make_config("videos", mixup=0.4, layer_decay=0.5, epochs=4, warmup_epochs=1.0, batch_size=16)
    for way in WAYS:
        train = way_recipe(recipe, way, videos=videos, width=384).train
        assert (train.epochs, train.warmup_epochs, train.eval_every) == (epochs, epochs / 4, epochs)


def test_wide_models_learn_at_lower_rates():
    recipe = make_config("videos", mixup=0.4, layer_decay=0.5)
    recipe = replace(recipe, augment=replace(recipe.augment, random_erasing=0.25, horizontal_flip=0.2))
    for way in WAYS:
        narrow, wide = (way_recipe(recipe, way, videos=60, width=width) for width in (96, 768))
        assert narrow.train.tune == way
        assert narrow.train.layer_decay == (0.5 if way == "full" else 1)
        assert narrow.augment == replace(recipe.augment, random_erasing=0, mixup=0)
        assert narrow.train.lr / wide.train.lr == pytest.approx(1 if way == "head" else 8)


def test_expected_times_count_passes():
    recipe = make_config("videos", epochs=10)
    times = {
        way: expected_seconds(
            replace(recipe, train=replace(recipe.train, tune=way)), videos=20, folds=5, clip_seconds=2.0
        )
        for way in WAYS
    }
    assert times["head"] == 2.0 * 20 * (8 + 1)
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
def test_the_cheapest_way_that_is_not_clearly_worse(validation, num_better, chosen):
    """Two made-up results on the same 12 videos: one is right on all, the other wrong on some."""
    right = validation
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


def test_doubtful_videos_have_the_lowest_scores_of_their_class(validation):
    rows = doubtful_videos(validation)
    own = {
        sample.id: float(scores[sample.label])
        for sample, scores in zip(validation.scored.samples, validation.scored.scores["label"], strict=True)
    }
    assert [row["id"] for row in rows] == sorted(own, key=own.get)[:8]
    assert torch.tensor([row["own_score"] for row in rows]).diff().ge(0).all()


@pytest.fixture
def messages_until(recipe, tmp_path):
    """Fine-tune these contents of files until a message that starts with a word; returns all messages."""

    def run(files, word, *, settings=None):
        for name, content in files.items():
            (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clips" / name).write_bytes(content)
        messages = []

        def stop(text: str) -> None:
            messages.append(text)
            if text.startswith(word):
                raise StopIteration

        changed = replace(recipe, data=replace(recipe.data, root=str(tmp_path / "clips")), **settings or {})
        with pytest.raises(StopIteration):
            finetune(tmp_path / "out", changed, callbacks=FinetuneCallbacks(on_message=stop))
        return messages

    return run


@pytest.fixture
def videos_of(tmp_path):
    """The contents of different videos, by their names."""
    return lambda *names: {
        name: write_video(tmp_path / "made.mp4", color=0, seed=seed).read_bytes() for seed, name in enumerate(names)
    }


def test_classes_that_a_mirror_exchanges_are_named(recipe, messages_until, videos_of):
    videos = videos_of("turning left/1.mp4", "turning left/2.mp4", "turning right/3.mp4", "turning right/4.mp4")
    mirrored = {"augment": replace(recipe.augment, horizontal_flip=0.5)}
    *_, message = messages_until(videos, "mirrored", settings=mirrored)
    assert message == "mirrored clips count as the other class of a pair: turning left and turning right"


def test_copies_are_left_out(messages_until, videos_of):
    videos = videos_of(*(f"{name}/{number}.mp4" for name in "abc" for number in range(3)))
    videos |= {"a/copy.mp4": videos["a/1.mp4"], "c/copy.mp4": videos["b/1.mp4"]}
    assert messages_until(videos, "8 videos")[-3:] == [
        "left out: a/copy.mp4: a copy of a/1.mp4",
        "left out: b/1.mp4 and c/copy.mp4: the same video in two classes",
        "8 videos of 3 classes: a 3, b 2, c 3",
    ]


@pytest.mark.parametrize("clip_seconds", [60, 150, 10_000])
def test_large_frames_that_take_too_long_are_named(recipe, messages_until, videos_of, monkeypatch, clip_seconds):
    """The largest size is named with which the head fits into the 10 minutes, or else the smallest one."""
    monkeypatch.setattr(finetune_run, "SMALL_SIZES", (8, 4))
    monkeypatch.setattr(finetune_run, "time_clip", lambda model: clip_seconds)
    videos = videos_of("a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    size = {"clip": replace(recipe.clip, image_size=16)}
    *_, message = messages_until(videos, "frames", settings=size)
    minutes = r"about (\d+) minutes"
    text = f"frames have 16 x 16 pixels, and the head alone takes {minutes}: "
    text += f"with --image-size (\\d) and another --output, {minutes}"
    whole, small, smaller = map(int, re.fullmatch(text, message).groups())
    assert whole > 10
    assert smaller == pytest.approx(whole * (small / 16) ** 2, abs=1)
    assert small == (8 if whole / 4 < 10 else 4)


def test_small_frames_are_not_to_blame(recipe, messages_until, videos_of, monkeypatch):
    monkeypatch.setattr(finetune_run, "time_clip", lambda model: 10_000)
    videos = videos_of("a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    assert not any(text.startswith("frames") for text in messages_until(videos, "head"))


def test_a_continued_run_is_not_told_to_start_again(recipe, messages_until, videos_of, monkeypatch, tmp_path):
    monkeypatch.setattr(finetune_run, "SMALL_SIZES", (8, 4))
    monkeypatch.setattr(finetune_run, "time_clip", lambda model: 10_000)
    (tmp_path / "out" / "head").mkdir(parents=True)
    videos = videos_of("a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    size = {"clip": replace(recipe.clip, image_size=16)}
    assert not any(text.startswith("frames") for text in messages_until(videos, "head", settings=size))
