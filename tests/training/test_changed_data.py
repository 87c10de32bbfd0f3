"""A run that is resumed after what it is trained on changed: refused in one line, with nothing written or deleted."""

import json
import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.barcode_videos import write_frames
from helpers.changed_videos import file_hashes
from helpers.color_videos import CLASSES, make_config, write_video, write_videos
from helpers.training_runs import same, stop_at, weights
from xvit.config import to_dict
from xvit.data.annotations import load_splits
from xvit.training import fit
from xvit.training.run_dir import RunDirectory
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A place for a data set (folders, and lists of its videos), with a copy of it as it was, and runs that use it."""
    place = tmp_path_factory.mktemp("place")
    root = write_videos(place / "original", train=3, val=2)
    write_video(root / "test" / "blue" / "0.mp4", color=2, seed=77)
    write_frames(root / "train" / "red" / "frames", frames=6)
    for split in ("train", "val"):
        paths = sorted((root / split).rglob("*.mp4"))
        lines = [f"{path.relative_to(root)} {CLASSES.index(path.parent.name)}\n" for path in paths]
        (root / f".{split}.txt").write_text("".join(lines))
    (root / ".names.txt").write_text("\n".join(CLASSES))
    shutil.copytree(root, place / "videos")
    return place


@pytest.fixture
def root(place) -> Path:
    """The data set as it was when the runs were started. Tests may change it."""
    shutil.rmtree(place / "videos")
    shutil.copytree(place / "original", place / "videos")
    return place / "videos"


def config_of(place: Path, data_format: str):
    config = make_config(place / "videos", epochs=2)
    if data_format == "folders":
        return config
    root = place / "videos"
    lists = {name: str(root / f".{name}.txt") for name in ("train", "val")}
    return replace(config, data=replace(config.data, format="list", label_files=str(root / ".names.txt"), **lists))


@pytest.fixture(scope="module")
def runs(place) -> Path:
    """A run that was stopped in epoch 2 and one that has ended, of each format. Read-only."""
    for data_format in ("folders", "list"):
        config = config_of(place, data_format)
        with pytest.raises(KeyboardInterrupt):
            fit(config, place / f"stopped_{data_format}", on_progress=stop_at(2, 1))
        fit(config, place / f"ended_{data_format}")
    return place


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def swap_lines(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([second, first, *rest]))


def rename_class(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / split / "blue").rename(root / split / "zblue")


def add_class(root: Path) -> None:
    for split in ("train", "val"):
        write_video(root / split / "zebra" / "0.mp4", color=0, seed=5)


def remove_class(root: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(root / split / "green")


CHANGES = {
    "a training video removed": (
        "folders",
        lambda root: (root / "train/blue/1.mp4").unlink(),
        ["training videos: 1 removed (train/blue/1.mp4);"],
    ),
    "training videos added": (
        "folders",
        lambda root: [write_video(root / f"train/red/{n}.mp4", color=0, seed=n) for n in (7, 8, 9)],
        ["training videos: 3 added (train/red/7.mp4, train/red/8.mp4, ...);"],
    ),
    "a class renamed": (
        "folders",
        rename_class,
        [
            "classes: blue removed, zblue added; training videos: 3 removed (train/blue/0.mp4,",
            "3 added (train/zblue/0.",
        ],
    ),
    "a class added": ("folders", add_class, ["classes: zebra added; training videos: 1 added (train/zebra/0.mp4);"]),
    "a class removed": ("folders", remove_class, ["classes: green removed; training videos: 3 removed"]),
    "a video in another class": (
        "folders",
        lambda root: (root / "train/blue/0.mp4").rename(root / "train/red/5.mp4"),
        ["training videos: 1 removed (train/blue/0.mp4), 1 added (train/red/5.mp4);"],
    ),
    "a validation video removed": (
        "folders",
        lambda root: (root / "val/red/0.mp4").unlink(),
        ["validation videos: 1 removed (val/red/0.mp4);"],
    ),
    "another video of the same name": (
        "folders",
        lambda root: shutil.copy(root / "train/red/1.mp4", root / "train/red/0.mp4"),
        ["training videos: 1 of another size (train/red/0.mp4);"],
    ),
    "a frame removed": (
        "folders",
        lambda root: max((root / "train/red/frames").iterdir()).unlink(),
        ["training videos: 1 of another size (train/red/frames);"],
    ),
    "another label": (
        "list",
        lambda root: edit(root / ".train.txt", "train/blue/0.mp4 0", "train/blue/0.mp4 2"),
        ["training videos: 1 with another label (train/blue/0.mp4: blue, now red);"],
    ),
    "another validation label": (
        "list",
        lambda root: edit(root / ".val.txt", "val/blue/1.mp4 0", "val/blue/1.mp4 1"),
        ["validation videos: 1 with another label (val/blue/1.mp4: blue, now green);"],
    ),
    "other names of the classes": (
        "list",
        lambda root: edit(root / ".names.txt", "blue", "azure"),
        ["classes: blue removed, azure added; training videos: 3 with another label (train/blue/0.mp4: blue, now azu"],
    ),
    "classes in another order": (
        "list",
        lambda root: (root / ".names.txt").write_text("\n".join(CLASSES[::-1])),
        ["classes: in another order; training videos: 6 with another label"],
    ),
    "videos in another order": (
        "list",
        lambda root: swap_lines(root / ".train.txt"),
        ["training videos: in another order;"],
    ),
    "a video twice": (
        "list",
        lambda root: edit(root / ".train.txt", "train/blue/1.mp4 0\n", "train/blue/1.mp4 0\n" * 2),
        ["training videos: 1 added (train/blue/1.mp4 [2]);"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_data_is_refused(name, root, runs):
    data_format, change, texts = CHANGES[name]
    change(root)
    config, before = config_of(runs, data_format), file_hashes(runs)
    for progress in ("stopped", "ended"):
        run = runs / f"{progress}_{data_format}"
        with pytest.raises(XViTError) as refused:
            RunDirectory(run, config, load_splits(config.data), resume=True)
        message = str(refused.value)
        assert message.startswith(f"{run}: the data changed since the run was started: {texts[0]}")
        assert all(text in message for text in texts)
        advice = f"start a new run from these weights: --output OTHER --init.checkpoint_path {run}/last"
        assert message.endswith(f"; undo these changes, or {advice}")
    assert file_hashes(runs) == before


@pytest.mark.parametrize("data_format", ["folders", "list"])
def test_the_command_refuses_other_data(data_format, root, runs, tmp_path, cli_error):
    (root / "train/blue/1.mp4").unlink()
    edit(root / ".train.txt", "train/blue/1.mp4 0\n", "")
    recipe, before = tmp_path / "recipe.yaml", file_hashes(runs)
    recipe.write_text(yaml.safe_dump(to_dict(config_of(runs, data_format))))
    for progress in ("stopped", "ended"):
        run = runs / f"{progress}_{data_format}"
        message = cli_error("train", "--config", recipe, "--output", run, "--resume")
        assert message.startswith(f"{run}: the data changed since the run was started: training videos: 1 removed (")
    assert file_hashes(runs) == before


def test_without_a_checkpoint_the_advice_names_none(root, runs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(config_of(runs, "folders"), tmp_path / "run", on_progress=stop_at(1, 1))
    (root / "train/red/0.mp4").unlink()
    with pytest.raises(XViTError, match=r"1 removed .*; undo these changes, or start a new run: --output OTHER$"):
        fit(config_of(runs, "folders"), tmp_path / "run", resume=True)


def test_times_and_test_videos_may_change(root, runs, tmp_path, caplog):
    """A data set that was copied back, with test videos added: the run ends as an uninterrupted one."""
    for path in root.rglob("*.mp4"):
        os.utime(path, (1, 1))
    write_video(root / "test" / "red" / "1.mp4", color=0, seed=1)
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    resumed = fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert same(weights(resumed.last), weights(runs / "ended_folders" / "last"))
    assert "but not what is trained on: test videos: 1 added (test/red/1.mp4)" in caplog.text


def forget_the_data(run: Path) -> None:
    """Make a run folder one of an earlier version."""
    (run / "data.json").unlink()
    for path in run.glob("state/*/train_state.json"):
        values = json.loads(path.read_text())
        assert values.pop("data_hash")
        path.write_text(json.dumps(values))


def test_a_run_of_an_earlier_version_is_resumed_with_a_warning(root, runs, tmp_path, caplog):
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    forget_the_data(tmp_path / "run")
    resumed = fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert "of an earlier version: whether its data has changed is not known" in caplog.text
    assert same(weights(resumed.last), weights(runs / "ended_folders" / "last"))
    caplog.clear()
    fit(config_of(runs, "folders"), tmp_path / "run", resume=True)  # from now on it is known
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_healthy_state_of_another_model_is_not_called_corrupt(root, runs, tmp_path):
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    forget_the_data(tmp_path / "run")
    add_class(root)
    before = file_hashes(tmp_path)
    with pytest.raises(XViTError, match=r"is of another model: classifier\S* is \(3, .*\) in it and \(4, ") as refused:
        fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert "corrupt" not in str(refused.value)
    assert file_hashes(tmp_path) == before


def test_frames_were_counted_in_earlier_versions(root, runs, tmp_path):
    """Without a frame rate in its recipe, a run has counted frames: a learnt rate would change its clips."""
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(re.sub(r"  frame_rate: .*\n", "", path.read_text()))
    config = config_of(runs, "folders")
    with pytest.raises(XViTError, match=r"clip\.frame_rate was null and is now 0\.0; use the same value, or start"):
        fit(replace(config, clip=replace(config.clip, frame_rate=0.0)), tmp_path / "run", resume=True)


def test_the_state_remembers_what_data_json_lost(root, runs, tmp_path):
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    (root / "val/red/0.mp4").unlink()
    before = file_hashes(tmp_path)
    with pytest.raises(XViTError, match=r"state step_\d+ was trained on other data than this, and its data\.json does"):
        fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert file_hashes(tmp_path) == before


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"class_names": ["a"], "train": [1]}'])
def test_a_damaged_data_json_is_reported(content, root, runs, tmp_path):
    shutil.copytree(runs / "ended_folders", tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text(content)
    with pytest.raises(XViTError, match=r"data\.json: (damaged \(|not readable as JSON)"):
        fit(config_of(runs, "folders"), tmp_path / "run", resume=True)


def test_another_number_of_processes_changes_nothing(root, runs, tmp_path):
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    for path in (tmp_path / "run").glob("state/*/train_state.json"):
        path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 2'))
    (tmp_path / "run" / "state" / ".step_0000009.writing").mkdir()
    before = file_hashes(tmp_path)
    with pytest.raises(XViTError, match="a run with 2 processes cannot be resumed with 1; use 2"):
        fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert file_hashes(tmp_path) == before


def test_other_library_versions_are_said(root, runs, tmp_path, caplog):
    shutil.copytree(runs / "ended_folders", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    record["versions"] |= {"torch": "1.0", "device": "abacus"}
    (tmp_path / "run" / "data.json").write_text(json.dumps(record))
    fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert "was started with torch 1.0 (now 2." in caplog.text
    assert "device abacus (now c" in caplog.text


def test_the_learnt_clip_spec_is_kept(root, runs, tmp_path, monkeypatch):
    """A video that times out would change the rate that is learnt."""
    monkeypatch.setattr("xvit.training.run.learn_sampling", lambda *args, **options: pytest.fail("learnt again"))
    shutil.copytree(runs / "stopped_folders", tmp_path / "run")
    resumed = fit(config_of(runs, "folders"), tmp_path / "run", resume=True)
    assert same(weights(resumed.last), weights(runs / "ended_folders" / "last"))
