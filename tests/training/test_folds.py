"""Cross-validation."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.color_videos import CLASSES, make_config
from helpers.training_runs import same, stop_at, weights
from xvit.data.annotations import load_splits
from xvit.evaluation import score_videos
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.training import cross_validate, fit, frame_cache
from xvit.training.frame_cache import FrameCache
from xvit.utils.errors import XViTError


@pytest.mark.parametrize("tune", ["full", "head"])
def test_each_video_is_predicted_by_a_model_that_has_not_seen_it(videos, tmp_path, tune):
    config = make_config(videos, tune=tune, epochs=3)
    data = load_splits(config.data)
    validation = cross_validate(config, tmp_path / "cv", folds=3)
    assert sorted(sample.id for sample in validation.scored.samples) == sorted(s.id for s in data.train + data.val)
    assert [fold.metrics["videos"] for fold in validation.folds] == [6, 6, 6]
    record = json.loads((tmp_path / "cv" / "folds.json").read_text())
    correct = 0
    for row, sample, scores in zip(
        record["predictions"], validation.scored.samples, validation.scored.scores["label"], strict=True
    ):
        folder = tmp_path / "cv" / f"fold_{row['fold']}"
        trained_on = [entry[0] for entry in json.loads((folder / "data.json").read_text())["train"]]
        assert len(trained_on) == 12
        assert sample.id not in trained_on
        prediction = Predictor(folder / "last")(sample.path)
        assert row["id"] == sample.id
        assert row["prediction"] == prediction.labels[0]
        assert scores.max().item() == pytest.approx(prediction.scores[0], abs=1e-6)
        assert row["scores"] == pytest.approx(scores.tolist())
        correct += CLASSES[sample.label] == prediction.labels[0]
    assert record["top1"] == pytest.approx(correct / 18)
    low, high = record["top1_interval"]
    assert low < record["top1"] <= high


def test_a_fold_is_a_plain_training_on_the_other_folds(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "MAX_VIEWS", 4)  # so that epochs use views again
    config = make_config(videos, tune="head", epochs=6)
    data = load_splits(config.data)
    validation = cross_validate(config, tmp_path / "cv", folds=3)
    samples = data.train + data.val
    held_out = {s.id for s, fold in zip(validation.scored.samples, validation.fold_of, strict=True) if fold == 2}
    splits = replace(
        data,
        train=[sample for sample in samples if sample.id not in held_out],
        val=[sample for sample in samples if sample.id in held_out],
    )
    config = replace(config, train=replace(config.train, eval_every=6))
    cache = FrameCache(tmp_path / "frames", train=samples, val=samples)
    alone = fit(config, tmp_path / "alone", data=splits, frames=cache)
    assert same(weights(alone.last), weights(tmp_path / "cv" / "fold_2" / "last"))


@pytest.mark.parametrize("tune", ["full", "head"])
def test_a_stopped_cross_validation_goes_on(videos, tmp_path, tune):
    config = make_config(videos, tune=tune, epochs=3)

    def stop(fold, event):
        if fold == 2:
            stop_at(2, 1)(event)

    with pytest.raises(KeyboardInterrupt):
        cross_validate(config, tmp_path / "cv", folds=3, on_progress=stop)
    first = (tmp_path / "cv" / "fold_1" / "scores.json").read_text()
    with pytest.raises(XViTError, match="continue what is in it with --resume"):
        cross_validate(config, tmp_path / "cv", folds=3)
    trained = []
    resumed = cross_validate(
        config, tmp_path / "cv", folds=3, resume=True, on_progress=lambda fold, event: trained.append(fold)
    )
    assert set(trained) == {2, 3}
    assert (tmp_path / "cv" / "fold_1" / "scores.json").read_text() == first
    whole = cross_validate(config, tmp_path / "whole", folds=3)
    assert torch.equal(resumed.scored.scores["label"], whole.scored.scores["label"])
    with pytest.raises(XViTError, match="another recipe or other videos"):
        cross_validate(make_config(videos, tune=tune, epochs=2), tmp_path / "cv", folds=3, resume=True)


def test_frame_vectors_are_computed_once_for_all_folds(videos, tmp_path, monkeypatch):
    config = make_config(videos, tune="head", epochs=3)
    done, clips = [], []
    embed = XViT.embed_frames
    monkeypatch.setattr(XViT, "embed_frames", lambda model, x: (clips.append(len(x)), embed(model, x))[1])
    cross_validate(
        config, tmp_path / "cv", folds=3, on_progress=lambda _, e: done.append(e.step) if e.stage == "frames" else None
    )
    assert sum(step == 18 for step in done) == 3 + 1  # three views and the fixed one, each of all 18 videos
    assert sum(clips) == 4 * 18 + 3  # held-out videos are scored from the fixed view; one clip by each `check_recipe`


def test_videos_are_scored_from_pixels_if_the_views_differ(videos, tmp_path):
    config = make_config(videos, tune="head", epochs=1)
    config = replace(config, eval=replace(config.eval, spatial_views=3))
    validation = cross_validate(config, tmp_path / "cv", folds=3)
    for sample, scores, fold in zip(
        validation.scored.samples, validation.scored.scores["label"], validation.fold_of, strict=True
    ):
        predictor = Predictor(tmp_path / "cv" / f"fold_{fold}" / "last")
        [expected] = score_videos(predictor, [sample], eval_config=config.eval).scores["label"]
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


def test_folds_save_one_checkpoint_each(videos, tmp_path, monkeypatch):
    saved = []
    save = XViT.save_pretrained
    monkeypatch.setattr(
        XViT, "save_pretrained", lambda model, path, **kw: (saved.append(path.name), save(model, path, **kw))[1]
    )
    cross_validate(make_config(videos, epochs=4), tmp_path / "cv", folds=3)
    assert sorted(saved) == ["best"] * 3 + ["last"] * 3
