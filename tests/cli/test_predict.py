"""`xvit predict`."""

import json
import re

import pytest

from helpers.barcode_videos import corrupt, write_frames, write_video
from xvit.inference.predictor import Predictor


def test_bad_files_do_not_stop_the_others(run, cli_error, checkpoint, bad_videos, tmp_path):
    missing = bad_videos.pop("missing")  # a mistake in the arguments, unlike a damaged file
    assert cli_error("predict", missing, "--checkpoint", checkpoint) == f"{missing}: no such file or folder"
    good = [write_video(tmp_path / name) for name in ("first.mp4", "last.mp4")]
    words = ["predict", good[0], *bad_videos.values(), good[1], "--checkpoint", checkpoint]
    code, out, err = run(*words)
    assert code == 1
    lines = err.splitlines()
    assert lines[0] == f"xvit: {len(bad_videos)} of {len(bad_videos) + 2} videos could not be read:"
    for path in bad_videos.values():
        assert sum(str(path) in line for line in lines) == 1, path
    assert all(str(path) in out for path in good)
    assert "Traceback" not in err

    code, out, err = run(*words, "--json")
    assert code == 1
    result = json.loads(out)
    assert [prediction["path"] for prediction in result["predictions"]] == [str(path) for path in good]
    assert [failure["path"] for failure in result["failed"]] == [str(path) for path in bad_videos.values()]


def test_warnings_are_shown_with_the_prediction(run, checkpoint, tmp_path):
    good = write_video(tmp_path / "good.mp4")
    damaged = corrupt(tmp_path / "damaged.mpg", write_video(tmp_path / "whole.mpg", kind="mpeg2-mpg"))
    short = write_video(tmp_path / "short.mp4", frames=2)
    words = ["predict", good, damaged, short, "--checkpoint", checkpoint]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    lines = [line.split()[0] for line in out.splitlines() if ".mp" in line or "warning: " in line]
    assert lines == [str(good), str(damaged), "warning:", str(short), "warning:"]
    assert "warning: 1 damaged frame\n" in re.sub(" +\n", "\n", out)
    assert "warning: 2 frames, fewer than the 4 of a clip" in out
    code, out, err = run(*words, "--json")
    given = [prediction["warnings"] for prediction in json.loads(out)["predictions"]]
    assert given[:2] == [[], ["1 damaged frame"]]
    assert "2 frames" in given[2][0]
    assert "warning: 1 damaged frame" in str(Predictor(checkpoint)(damaged))


def test_the_rate_of_a_folder_of_frames(run, checkpoint, tmp_path):
    words = ["predict", write_frames(tmp_path / "frames", frames=12), "--checkpoint", checkpoint, "--json"]
    for options, fps, warnings in (
        ([], 30, ["no timestamps: 30 frames per second assumed"]),
        (["--fps", 6], 6, []),
    ):
        (prediction,) = json.loads(run(*words, *options)[1])["predictions"]
        assert prediction["warnings"] == warnings
        assert max(prediction["times"]) == pytest.approx(10 / fps)


def test_folder_without_videos(run, checkpoint, tmp_path):
    code, _, err = run("predict", tmp_path, "--checkpoint", checkpoint)
    assert code == 1
    assert str(tmp_path) in err


def test_invalid_checkpoints(cli_error, checkpoint, tmp_path):
    words = ["predict", tmp_path, "--checkpoint"]
    assert "no such checkpoint directory" in cli_error(*words, tmp_path / "none")
    assert "not a checkpoint directory" in cli_error(*words, tmp_path)
    assert "a file; expected a checkpoint directory" in cli_error(*words, checkpoint / "config.json")
