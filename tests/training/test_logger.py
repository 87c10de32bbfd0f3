"""Unreadable videos and losses that are not finite."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest

from helpers import barcode_videos
from helpers.color_videos import CLASSES, CLIP, make_config, write_videos
from helpers.training_runs import rows, weights
from xvit.data import reading, statistics
from xvit.data.annotations import read_class_folders
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.training import engine, fit
from xvit.training.losses import classification_loss
from xvit.utils.errors import XViTError


def test_unreadable_videos_are_skipped_and_listed(tmp_path):
    root = write_videos(tmp_path / "videos")
    for name in ("train/red/x.mp4", "train/blue/y.mp4", "val/red/z.mp4"):
        (root / name).write_text("not a video")
    events = []
    result = fit(make_config(root, batch_size=4), tmp_path / "run", on_progress=events.append)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()]
    expected = ["train/blue/y.mp4", "train/red/x.mp4", "val/red/z.mp4"]
    assert sorted(row["path"] for row in bad) == [str(root / name) for name in expected]
    assert all(row["reason"] for row in bad)
    assert {row["outcome"] for row in bad} == {"skipped"}
    assert (result.bad_videos, result.warned_videos) == (3, 0)
    assert [event.bad_videos for event in events if event.stage == "train"][3] == 2
    assert [row["failed"] for row in rows(tmp_path / "run", "eval")] == [1, 1]


def test_videos_that_are_used_with_warnings_are_listed_once(tmp_path):
    """Files with fewer frames than a clip, of training and of validation, one of them with workers."""
    root = write_videos(tmp_path / "videos")
    used = [root / "train" / "red" / "short.mp4", root / "val" / "blue" / "short.mp4"]
    for path in used:
        barcode_videos.write_video(path, frames=2)
    (root / "train" / "green" / "bad.mp4").write_text("not a video")
    output = tmp_path / "run"
    result = fit(make_config(root, epochs=3, num_workers=1), output)
    assert (result.bad_videos, result.warned_videos) == (1, 2)
    listed = [json.loads(line) for line in (output / "bad_videos.jsonl").read_text().splitlines()]
    outcomes = {row["path"]: row["outcome"] for row in listed}
    assert outcomes == dict.fromkeys(map(str, used), "used") | {str(root / "train" / "green" / "bad.mp4"): "skipped"}
    assert len(listed) == 3
    assert all("2 frames, fewer than the 4" in row["reason"] for row in listed if row["outcome"] == "used")
    assert [row["with_warnings"] for row in rows(output, "eval")] == [1, 1, 1]
    assert all(row["bad_videos"] == 1 for row in rows(output, "train"))
    again = fit(make_config(root, epochs=3, num_workers=1), output, resume=True)
    assert (again.bad_videos, again.warned_videos) == (1, 2)


def test_videos_that_kill_the_process_that_reads_them_are_skipped(tmp_path, monkeypatch):
    """The first video of each split, which is read before the training too; the main process reads none of them."""
    root = write_videos(tmp_path / "videos", train=2, val=2)
    fatal = {str(root / split / "blue" / "0.mp4") for split in ("train", "val")}

    def die_at(module, name):
        function = getattr(module, name)

        def read(path, *args, **options):
            if path in fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(path, *args, **options)

        monkeypatch.setattr(module, name, read)

    die_at(statistics, "probe")
    die_at(reading, "read_clip")
    config = make_config(root, epochs=1, num_workers=1)
    fit(replace(config, clip=replace(config.clip, frame_rate=0.0)), tmp_path / "run")
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()]
    assert {row["path"]: row["reason"] for row in bad} == dict.fromkeys(
        fatal, "the process that read it was killed (signal 9)"
    )


def test_a_step_without_readable_videos_changes_nothing(tmp_path):
    root = write_videos(tmp_path / "videos", train=1)
    (root / "train" / "red" / "0.mp4").write_text("not a video")
    result = fit(make_config(root, batch_size=1), tmp_path / "run")
    assert rows(tmp_path / "run", "train")[-1]["step"] == 6
    assert result.bad_videos == 1


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("val", "validation")])
def test_a_split_without_readable_videos_is_found_before_the_training(split, name, tmp_path):
    root = write_videos(tmp_path / "videos", train=1, val=1)
    for path in (root / split).rglob("*.mp4"):
        path.write_text("not a video")
    message = rf"none of the 3 {name} videos could be read; the first error: .*blue/0\.mp4: not a readable video"
    with pytest.raises(XViTError, match=message):
        fit(make_config(root), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_an_epoch_without_readable_videos_stops_the_training(tmp_path):
    root = write_videos(tmp_path / "videos", train=1)

    def spoil_videos(event):
        for path in (root / "train").rglob("*.mp4"):
            path.write_text("not a video")

    with pytest.raises(XViTError, match=r"epoch 2: none of 3 videos could be read; the last error: .*\.mp4"):
        fit(make_config(root), tmp_path / "run", on_progress=spoil_videos)


def test_too_many_unreadable_videos_stop_the_training(tmp_path):
    root = write_videos(tmp_path / "videos")
    for name in CLASSES[:2]:
        (root / "train" / name / "0.mp4").write_text("no video")
    config = make_config(root)
    config = replace(config, data=replace(config.data, max_unreadable_fraction=0.1))
    message = r"2 of 12 training videos could not be read, more than .*=0.1; they are listed in .*bad_videos\.jsonl"
    with pytest.raises(XViTError, match=message):
        fit(config, tmp_path / "run")
    assert (tmp_path / "run" / "bad_videos.jsonl").read_text().count("\n") == 2
    assert (
        fit(replace(config, data=replace(config.data, max_unreadable_fraction=0.17)), tmp_path / "other").bad_videos
        == 2
    )


def test_a_loss_that_is_not_finite_names_the_videos_of_the_step(videos, tmp_path, monkeypatch):
    batch_sizes = []

    def loss_with_nan(logits, labels, *settings, **options):
        batch_sizes.append(len(labels))
        return classification_loss(logits, labels, *settings, **options) * (math.nan if len(batch_sizes) == 5 else 1)

    monkeypatch.setattr(engine, "classification_loss", loss_with_nan)
    message = r"step 5 \(epoch 2\): the loss is nan, so training stops \(.*last is the checkpoint of the previous epoch"
    with pytest.raises(XViTError, match=message) as caught:
        fit(make_config(videos), tmp_path / "run")
    named = str(caught.value).split("Videos of that step: ")[1].split(", ")
    dataset = VideoDataset(
        samples=read_class_folders(videos).train, clip_spec=CLIP, augment=make_config(videos).augment
    )
    dataset.set_epoch(1)
    ids = [
        dataset.samples[i].id
        for batch in make_loader(dataset, batch_size=5, sampler=EpochSampler(dataset))
        for i in batch["indices"]
    ]
    assert named == ids[5:10]
    saved = weights(tmp_path / "run" / "last")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    assert len(rows(tmp_path / "run", "eval")) == 1
