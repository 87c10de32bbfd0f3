"""`xvit train`, and its checkpoint in `xvit eval` and `xvit predict`."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from helpers.barcode_videos import write_video
from xvit.config import RunConfig, from_dict
from xvit.data.synthetic.motion import CLASSES


def test_train_eval_and_predict(run, refused, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output]
    code, out, err = run(*words, "--train.lr", "0.002", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["best"] == str(output / "best")
    assert from_dict(RunConfig, yaml.safe_load((output / "config.yaml").read_text()), "").train.lr == 0.002
    weights = (output / "last" / "model.safetensors").read_bytes()

    assert "--resume" in refused(*words)  # an existing run is neither overwritten nor resumed silently
    assert "train.lr was 0.002" in refused(*words, "--resume")
    assert (output / "last" / "model.safetensors").read_bytes() == weights
    code, out, _ = run(*words, "--resume", "--train.lr", "0.002")
    assert code == 0
    assert "best epoch" in out

    results = tmp_path / "results"
    words = ["eval", "--checkpoint", output / "best", "--data.root", videos, "--output", results]
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["top1"] == pytest.approx(result["metrics"]["top1"])
    assert (results / "confusion.png").stat().st_size > 1000
    assert "not an empty directory" in refused(*words)

    code, out, err = run("predict", videos / "val" / "moving_left", "--checkpoint", output / "best", "--json")
    assert (code, err) == (0, "")
    [prediction] = json.loads(out)["predictions"]
    assert prediction["path"] == str(videos / "val" / "moving_left" / "0000.mp4")
    assert len(prediction["labels"]) == len(prediction["scores"]) == 5
    assert set(prediction["labels"]) <= set(CLASSES)


def test_invalid_data(refused, recipe, videos, tmp_path):
    words = ["train", "--config", recipe, "--output", tmp_path / "run", "--data.root"]
    assert "no such folder" in refused(*words, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no videos" in refused(*words, tmp_path / "empty")
    for name in ("full", "bare"):
        (tmp_path / "half" / name).mkdir(parents=True)
    write_video(tmp_path / "half" / "full" / "a.mp4")
    assert "bare: a class without videos" in refused(*words, tmp_path / "half")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert "--output" in refused(*words, videos)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_ctrl_c_with_workers_then_resume(run, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output, "--train.epochs=3", "--json"]
    words += ["--data.num_workers=1"]
    command = [sys.executable, "-m", "xvit", *map(str, words)]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (output / "last" / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    first, last = err.splitlines()  # the first is printed at once: a step may take long
    assert first.startswith("stopping after this step")
    assert "--resume" in last
    assert run(*words, "--resume", "--data.num_workers=0")[::2] == (0, "")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["stage"] == "eval"] == [1, 2, 3]


def test_unreadable_video_gives_exit_code_1_and_is_listed_in_a_file(run, videos, recipe, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    next((tmp_path / "videos" / "train" / "moving_left").iterdir()).write_text("no video")
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", tmp_path / "videos", "--train.epochs=1", "--output"]
    code, out, err = run(*words, output, "--json")
    assert code == 1
    assert json.loads(out)["bad_videos"] == 1
    assert f"1 videos could not be read; see {output / 'bad_videos.jsonl'}" in err
    code, _, err = run(*words, output, "--resume", "--json")
    assert code == 1
    code, _, err = run(*words, tmp_path / "other", "--resume", "--json")
    assert err.startswith(f"{tmp_path / 'other'}: no run to resume; starting a new one\n")
