"""`xvit train`, and its checkpoint in `xvit eval` and `xvit predict`."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import xvit
from helpers import color_videos
from helpers.barcode_videos import write_video
from helpers.warm_processes import WarmProcess
from xvit.config import RunConfig, from_dict, to_dict
from xvit.data.synthetic.motion import CLASSES
from xvit.inference import Predictor


def test_train_eval_and_predict(run, cli_error, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output]
    code, out, err = run(*words, "--train.lr", "0.002", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["best"] == str(output / "best")
    assert from_dict(RunConfig, yaml.safe_load((output / "config.yaml").read_text()), "").train.lr == 0.002
    weights = (output / "last" / "model.safetensors").read_bytes()

    assert "--resume" in cli_error(*words)  # an existing run is neither overwritten nor resumed silently
    assert "train.lr was 0.002" in cli_error(*words, "--resume")
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
    assert "not an empty directory" in cli_error(*words)

    code, out, err = run("predict", videos / "val" / "moving_left", "--checkpoint", output / "best", "--json")
    assert (code, err) == (0, "")
    [prediction] = json.loads(out)["predictions"]
    assert prediction["path"] == str(videos / "val" / "moving_left" / "0000.mp4")
    assert len(prediction["labels"]) == len(prediction["scores"]) == 5
    assert set(prediction["labels"]) <= set(CLASSES)


def test_every_epoch_is_printed_into_a_pipe(run, recipe, tmp_path):
    """One line per validation, that of the last epoch too; equal results are not taken for old ones."""
    root = color_videos.write_videos(tmp_path / "videos", train=2, val=2)
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "run", "--train.epochs", "5"]
    code, out, err = run(*words, "--train.eval_every", "2", "--train.lr", "0")  # the same result each time
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    results = [row for row in rows if row["stage"] == "eval"]
    assert len({row["top1"] for row in results}) == 1
    lines = [line for line in err.splitlines() if "validation top-1" in line]
    assert [line.split(": ")[1] for line in lines] == ["epoch 2 of 5", "epoch 4 of 5", "epoch 5 of 5"]
    assert all("of 6 videos, 1 x 1 views (temporal x spatial)" in line for line in lines)
    assert all("% (95 % interval " in line and "top-5" not in line for line in lines)
    assert "of 6 validation videos" in out
    assert "top-5" not in out


@pytest.mark.parametrize(("split", "command"), [
    ([], "--data.root OTHER_VIDEOS"),
    (["--data.val_fraction", "0.25", "--data.test_fraction", "0.25", "--eval.spatial_views", "3"],
     "--data.root {} --split test --data.val_fraction 0.25 --data.test_fraction 0.25 --eval.spatial_views 3"),
])  # fmt: skip
def test_the_result_says_who_chose_it_and_how_to_measure_it(run, recipe, tmp_path, split, command):
    root = color_videos.write_videos(tmp_path / "my videos", train=4, val=1)
    root = root / "train" if split else root
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "run", "--train.epochs", "1"]
    code, out, err = run(*words, *split)
    assert code == 0
    assert "chosen by its result on the validation videos, so that result tends to be too high" in out
    expected = f"xvit eval --checkpoint {tmp_path / 'run' / 'best'} {command.format(shlex.quote(str(root)))}"
    assert out.splitlines()[-1].strip() == expected
    assert ("validation uses one view per video" in err) == ("--eval.spatial_views" in split)
    difference = "one view per video in fp32, `xvit eval` as below with 1 x 3 views (temporal x spatial) in fp32"
    assert (difference in out) == ("--eval.spatial_views" in split)
    if split:
        code, out, _ = run(*shlex.split(expected)[1:], "--json")
        result = json.loads(out)
        assert (code, result["videos"], result["seen_in_training"]) == (0, 3, {})
        assert (result["temporal_views"], result["spatial_views"]) == (1, 3)


def test_other_videos_need_the_format_of_their_labels(run, recipe, tmp_path):
    root = color_videos.write_videos(tmp_path / "videos", train=2, val=1)
    for split in ("train", "val"):
        rows = [f"{path.relative_to(root)} {path.parent.name}" for path in sorted((root / split).rglob("*.mp4"))]
        (root / f"{split}.txt").write_text("\n".join(rows))
    lists = ["--data.format", "list", "--data.train", root / "train.txt", "--data.val", root / "val.txt"]
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "run", "--train.epochs", "1"]
    code, out, _ = run(*words, *lists)
    assert code == 0
    assert out.splitlines()[-1].endswith("--data.root OTHER_VIDEOS --data.format list --data.val THEIR_LABELS")


@pytest.mark.parametrize(("warmup", "warns"), [("0.5", False), ("1", True)])
def test_a_warm_up_that_never_ends_is_named(run, recipe, tmp_path, warmup, warns):
    root = color_videos.write_videos(tmp_path / "videos", train=1, val=1)
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "run", "--train.epochs", "1"]
    code, _, err = run(*words, "--train.warmup_epochs", warmup)
    assert code == 0
    assert ("train.warmup_epochs=1: the learning rate rises in all 1 epochs, and never falls" in err) == warns


def test_the_result_says_that_it_was_measured_in_another_precision(run, recipe, tmp_path):
    root = color_videos.write_videos(tmp_path / "videos", train=1, val=1)
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "run", "--train.epochs", "1"]
    code, out, _ = run(*words, "--train.precision", "bf16")
    assert code == 0
    assert "Training measures with one view per video in bf16, `xvit eval` as below with 1 x 1 views" in out


def test_help_lists_the_packaged_recipes(run):
    code, out, _ = run("train", "--help")
    assert code == 0
    folder = Path(xvit.__file__).parent / "recipes"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert ", ".join(names) in " ".join(out.split())
    assert "--config finetune --init.checkpoint_path run/best" in out


def test_train_eval_and_predict_with_several_labels_per_video(run, cli_error, tmp_path):
    """Each video has the class of its bright colour, and two of the three colours also have the class "warm"."""
    lines = []
    for number in range(12):
        color_videos.write_video(tmp_path / "videos" / f"{number}.mp4", color=number % 3, seed=number)
        lines.append(f"{number}.mp4 {['blue', 'green', 'red'][2 - number % 3]}{' warm' * (number % 3 < 2)}")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = {"root": str(tmp_path / "videos"), "format": "list", "multi_label": True, "num_workers": 0}
    data |= {"train": str(tmp_path / "list.txt"), "val": str(tmp_path / "list.txt")}
    recipe = {"model": to_dict(color_videos.MODEL), "clip": to_dict(color_videos.CLIP), "data": data}
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
    assert best > 0.6  # about 0.4 by chance
    assert (tmp_path / "result" / "per_class.png").exists()
    results = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert results[0]["ground_truth"] == ["red", "warm"]
    prediction = Predictor(tmp_path / "run" / "best")(tmp_path / "videos" / "0.mp4")
    scores = dict(zip(prediction.labels, prediction.scores, strict=True))
    assert scores == pytest.approx(results[0]["scores"], abs=1e-5)
    code, out, err = run(*words)
    assert "average precision" in out
    assert "mAP" in out
    message = cli_error("timeline", tmp_path / "videos" / "0.mp4", "--checkpoint", tmp_path / "run" / "best")
    assert "a multi-label model" in message
    (tmp_path / "list.txt").write_text("0.mp4 red\n1.mp4 green\n")
    assert "the model predicts several labels per video: set data.multi_label=true" in cli_error(*words[:-2])


def test_invalid_data(cli_error, recipe, videos, tmp_path):
    words = ["train", "--config", recipe, "--output", tmp_path / "run", "--data.root"]
    assert "no such folder" in cli_error(*words, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no videos" in cli_error(*words, tmp_path / "empty")
    for name in ("full", "bare"):
        (tmp_path / "half" / name).mkdir(parents=True)
    write_video(tmp_path / "half" / "full" / "a.mp4")
    assert "bare: a class without videos" in cli_error(*words, tmp_path / "half")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert "--output" in cli_error(*words, videos)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


# Ctrl-C when the first epoch is saved.
INTERRUPTED = """
import os, signal, sys
from xvit.__main__ import run
from xvit.training.run import TrainingRun

def save_and_interrupt(training):
    save_state(training)
    if not training.signals.received:
        os.kill(os.getpid(), signal.SIGINT)

save_state, TrainingRun.save_state = TrainingRun.save_state, save_and_interrupt
sys.exit(run())
"""


def test_ctrl_c_with_workers_then_resume(run, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output, "--json"]
    words += ["--data.num_workers=1"]
    code, _, err = WarmProcess("-c", INTERRUPTED, *words).wait()
    assert code == 130
    first, last = (
        line for line in err.splitlines() if "shared memory" not in line
    )  # the first is printed at once: a step may take long
    assert first.startswith("stopping after this step")
    assert "--resume" in last
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["stage"] == "eval"] == [1]
    assert run(*words, "--resume", "--data.num_workers=0")[::2] == (0, "")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["stage"] == "eval"] == [1, 2]


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


def test_torchrun_restarts_only_a_command_that_resumes(run, cli_error, videos, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    words = ["train", "--config", recipe, "--data.root", videos, "--output", tmp_path / "run", "--train.epochs", "1"]
    assert "--max-restarts 3 restarts the command, which continues its run only with --resume" in cli_error(*words)
    code, _, err = run(*words, "--resume")
    assert (code, "torchrun cannot" in err) == (0, False)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    code, _, err = run(*words, "--resume")
    assert code == 0
    assert "torchrun cannot replace a machine that is lost; it can with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in err


def test_cross_validation_on_the_command_line(run, cli_error, recipe, tmp_path):
    root = color_videos.write_videos(tmp_path / "videos", train=3, val=1)
    words = ["train", "--config", recipe, "--data.root", root, "--output", tmp_path / "cv", "--folds", "2"]
    code, out, err = run(*words)
    assert code == 0
    assert "of 12 videos" in out
    assert "without --folds" in out
    assert [line.split()[:2] for line in out.splitlines() if line.strip()[:1].isdigit()] == [["1", "6"], ["2", "6"]]
    assert "--resume" in cli_error(*words)
    code, out, err = run(*words, "--resume", "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["predictions"]) == 12
    assert "folds=1: expected" in cli_error(*words[:-1], "1")
