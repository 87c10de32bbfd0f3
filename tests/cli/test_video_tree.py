"""Every command sees the same videos in a folder, and says what it leaves out."""

import json
import os
from pathlib import Path

import pytest

from helpers.video_tree import LEFT_OUT, VIDEOS, write_video_tree
from xvit.config import DataConfig
from xvit.data.annotations import find_videos, load_splits
from xvit.export.parity import choose_videos
from xvit.features import read_features


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return write_video_tree(tmp_path_factory.mktemp("tree") / "data")


@pytest.fixture
def videos(tree) -> list[str]:
    return [str(tree / name) for name in VIDEOS]


def check_left_out(error: str, *more: str) -> None:
    """One line, with the number of each kind."""
    lines = [line for line in error.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 1
    kinds = [f"{kind}: {len(names)} (" for kind, names in LEFT_OUT.items()]
    assert all(kind in lines[0] for kind in [*kinds, *more]), lines[0]


def test_what_is_a_video_and_what_is_left_out(tree, videos):
    splits = load_splits(DataConfig(root=str(tree)))
    samples = splits.train + splits.val
    assert sorted(sample.id for sample in samples) == VIDEOS
    assert {splits.class_names[sample.label] == sample.id.partition("/")[0] for sample in samples} == {True}
    assert splits.left_out == {kind: [str(tree / name) for name in names] for kind, names in LEFT_OUT.items()}
    assert find_videos([tree]) == videos
    assert find_videos([f"{tree}/run", f"{tree}/walk"]) == [path for path in videos if "/jog/" not in path]


def test_predict(run, tree, videos, checkpoint):
    code, out, err = run("predict", tree, "--checkpoint", checkpoint, "--num-workers", 0, "--json")
    assert [prediction["path"] for prediction in json.loads(out)["predictions"]] == videos
    assert code == 0
    check_left_out(err)


def test_features(run, tree, videos, checkpoint, tmp_path):
    output = tmp_path / "features.npy"
    words = ["--output", output, "--checkpoint", checkpoint, "--num-workers", 0]
    code, _, err = run("features", tree, *words)
    features = read_features(output)
    assert (code, list(features.paths)) == (0, videos)
    assert list(features.labels) == [name.partition("/")[0] for name in VIDEOS], "the first folder below the root"
    check_left_out(err)


def test_resize(run, tree, tmp_path):
    code, _, err = run("data", "resize", tree, "--output", tmp_path / "small", "--short-side", 32, "--num-workers", 0)
    written = [path.relative_to(tmp_path / "small").as_posix() for path in (tmp_path / "small").rglob("*.mp4")]
    assert code == 0
    assert sorted(written) == [name.replace(".MP4", ".mp4") for name in VIDEOS if name != "jog/frames"]
    check_left_out(err, "folder of frames: 1 (")


def test_timeline(run, tree, videos, checkpoint):
    code, out, err = run("timeline", tree, "--checkpoint", checkpoint, "--stride", 2, "--json")
    result = json.loads(out)
    seen = [video["video"] for video in result["videos"]] + [failure["path"] for failure in result["failed"]]
    assert (code, sorted(seen)) == (1, videos)
    assert [failure["path"] for failure in result["failed"]] == [str(tree / "jog/frames")], "read from start to end"
    check_left_out(err)


def test_data_check(run, tree, tmp_path):
    words = ["data", "check", "--data.root", tree, "--data.num_workers", 0, "--output", tmp_path / "report"]
    _, out, err = run(*words)
    assert err == "", "the report has it"
    check_left_out("\n".join(line.replace("left out   ", "left out: ") for line in out.splitlines()))
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["samples"] == len(VIDEOS)
    assert report["left_out"] == {kind: [str(tree / name) for name in names] for kind, names in LEFT_OUT.items()}


def test_videos_to_check_and_calibrate_an_export(tree, videos):
    compared, calibration = choose_videos([str(tree)], 99, calibrate=True)
    assert sorted(compared + calibration) == videos


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv"])
def test_a_list_of_videos_instead_of_a_folder(name, run, tree, videos, checkpoint, tmp_path):
    separator = {"list.txt": " ", "list.csv": ",", "list.tsv": "\t"}[name]
    path = tmp_path / name
    path.write_text("".join(f"{os.path.relpath(video, tmp_path)}{separator}0\n" for video in videos))
    code, out, err = run("predict", path, "--checkpoint", checkpoint, "--num-workers", 0, "--json")
    assert (code, err) == (0, "")
    found = [prediction["path"] for prediction in json.loads(out)["predictions"]]
    assert [os.path.normpath(video) for video in found] == videos
