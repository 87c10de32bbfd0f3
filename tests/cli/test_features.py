"""`xvit features`, and `xvit probe` on what it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.color_videos import MODEL, make_model, with_metadata, write_video, write_videos
from helpers.features import features_one_by_one
from xvit.features import read_features

BACKBONE = ["--backbone", MODEL.backbone, "--num-frames", "4", "--backbone-kwargs", json.dumps(MODEL.backbone_kwargs)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three videos of each colour, in a folder of that name. Read-only."""
    return write_videos(tmp_path_factory.mktemp("colours"), train=3, val=0) / "train"


def test_from_videos_to_accuracy(run, cli_error, root, tmp_path):
    paths, output = {str(path) for path in root.glob("*/*.mp4")}, tmp_path / "train.parquet"
    words = ["features", root, "--output", output, "--num-workers", 0, "--device", "cpu"]
    code, out, err = run(*words, *BACKBONE)
    assert (code, err) == (0, "")
    assert "random; for trained ones, give --pretrained true" in out
    assert "clip, float32 (9, 16)" in out
    features = read_features(output)
    assert set(zip(features.paths, features.labels, strict=True)) == {(path, Path(path).parent.name) for path in paths}
    # With an image model alone: the mean over the frames, each processed alone.
    image = make_model(0, attention="spatial", temporal_head="mean")
    expected = features_one_by_one(image, features.paths, "frames").mean(axis=1)
    np.testing.assert_allclose(features.values, expected, atol=1e-5)
    assert f"{output}: exists" in cli_error(*words, *BACKBONE)

    bad, test = tmp_path / "notes.mp4", tmp_path / "test.npy"
    bad.write_text("not a video")
    words[3] = test
    code, out, err = run("features", bad, *words[1:], *BACKBONE, "--json")
    assert code == 1
    assert "1 of 10 videos could not be read" in err
    result = json.loads(out)
    assert (result["output"], result["shape"], result["level"]) == (str(test), [9, 16], "clip")
    assert [failure["path"] for failure in result["failed"]] == [str(bad)]
    code, out, err = run("probe", output, test, "--k", 1, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["knn"], result["classes"]) == ({"top1": 1.0, "top5": None}, 3)  # each video is its own nearest
    code, out, err = run("probe", output, test, "--k", 1)
    assert (code, err) == (0, "")
    assert "1 nearest neighbours" in out
    assert "100.00 %" in out
    assert "3 classes, 9 training videos, 9 test videos" in out


def test_invalid_arguments_are_explained_in_one_line(cli_error, root, checkpoint, tmp_path):
    words = ["features", root / "red" / "0.mp4", "--output", tmp_path / "f.npy"]
    assert "--checkpoint or --backbone: missing" in cli_error(*words)
    message = "--attention: cannot be combined with --checkpoint"
    assert message in cli_error(*words, "--checkpoint", checkpoint, "--attention", "joint")
    message = "--backbone: cannot be combined with --checkpoint"
    assert message in cli_error(*words, "--checkpoint", checkpoint, *BACKBONE)
    message = "--advanced.temporal-layers: cannot be combined with --checkpoint, which has its own model settings"
    assert message in cli_error(*words, "--checkpoint", checkpoint, "--advanced.temporal_layers", 2)
    for option in ("--num-classes", "--multi-label", "--dropout", "--advanced.classifier-hidden"):
        assert f"unknown option {option}" in cli_error(*words, *BACKBONE, option, 1), "no effect on the features"
    assert 'Did you mean "frames"?' in cli_error(*words, "--checkpoint", checkpoint, "--level", "frame")
    assert "batch_size=0" in cli_error(*words, "--checkpoint", checkpoint, "--batch-size", 0)
    assert "ends in one of" in cli_error(*words[:3], "f.txt", "--checkpoint", checkpoint)
    assert "no such checkpoint directory" in cli_error(*words, "--checkpoint", tmp_path / "none")
    error = cli_error("features", "none.mp4", *words[2:], "--checkpoint", checkpoint)
    assert error == "none.mp4: no such file or folder"
    assert not list(tmp_path.iterdir())


def test_ctrl_c_prints_how_to_continue(run, checkpoint, root, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xvit.features.extract.make_loader", stop)
    code, out, err = run("features", root, "--output", tmp_path / "f.npy", "--checkpoint", checkpoint)
    assert (code, out) == (130, "")
    assert err.startswith("xvit: stopped. ")
    assert "the same command" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("level", ["frames", "tokens"])
def test_features_of_tubelets_and_merged_tokens_are_written(level, run, tmp_path):
    path = write_video(tmp_path / "red.mp4", color=0, seed=1)
    model = with_metadata(make_model(tubelet_size=2, tome_r=1), ["blue", "green", "red"])
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "features.npy"
    arguments = ("features", path, "--output", output, "--checkpoint", tmp_path / "model", "--level", level)
    assert run(*arguments, "--num-workers", 0)[0] == 0
    # 2 tubelets; of 4 patches one pair merges after the first of 2 layers; with the class token
    assert np.load(output).shape == {"frames": (1, 2, 16), "tokens": (1, 2, 4, 16)}[level]
