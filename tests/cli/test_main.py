"""The command line as a user meets it: words in; exit code, standard output and standard error out."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import yaml

from helpers.barcode_videos import truncate, write_audio, write_video
from xvit.cli.main import COMMANDS, find_command
from xvit.config import RunConfig, from_dict
from xvit.data.synthetic.motion import CLASSES

ROOT = Path(__file__).parents[2]
XVIT = [sys.executable, "-m", "xvit"]


@pytest.fixture
def bad_videos(tmp_path) -> dict[str, Path]:
    """Files that are no videos, by what is wrong with them."""
    folder = tmp_path / "bad"
    folder.mkdir()
    good = write_video(tmp_path / "good.mp4")
    (folder / "text.mp4").write_text("This is not a video.\n")
    (folder / "empty.mp4").touch()
    return {
        "text": folder / "text.mp4",
        "empty": folder / "empty.mp4",
        "audio": write_audio(folder / "audio.mp4"),
        "truncated": truncate(folder / "truncated.mp4", good, fraction=0.5),
        "missing": folder / "missing.mp4",
    }


def test_the_overview_names_all_commands_and_imports_nothing_heavy():
    check = (
        "import sys; from xvit.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'timm', 'matplotlib', 'torchmetrics', 'jsonargparse', 'rich', 'yaml', 'numpy', 'av'}; "
        "sys.exit(code or ', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_no_command_gives_the_overview(run):
    assert run() == run("--help") == run("-h")
    assert run()[0] == 0
    assert "data motion" in run("data")[1]
    assert "predict" not in run("data", "--help")[1].split("all commands")[0]
    assert run("--version")[1].startswith("xvit 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_teaches_by_examples_that_parse(name, run, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, err = run(*name.split(), "--help")
    assert (code, err) == (0, "")
    examples = [line.strip() for line in out.splitlines() if line.startswith("  xvit ")]
    assert any(example.startswith(f"xvit {name}") for example in examples)
    for example in examples:
        parses(example)


def parses(line: str) -> None:
    """Parse a line of a shell as the command would, without running it. --print-config ends a parse by itself."""
    words = shlex.split(line.split(" > ")[0], comments=True)
    _, module, rest = find_command(words[1:])
    with contextlib.suppress(SystemExit):
        module.parse(rest)


def test_mistakes_in_words_are_explained_in_one_line(refused):
    assert 'no command "trian". Did you mean "train"?' in refused("trian")
    assert 'Did you mean "data motion"?' in refused("data", "moton")
    assert 'unknown option --clips-per-clas. Did you mean "--clips-per-class"?' in refused(
        "data", "motion", "--output", "x", "--clips-per-clas", "3"
    )
    assert refused("data", "motion", "--output", "x", "--clips-per-class", "few") == (
        "--clips_per_class: expected int, got few"
    )
    assert "--output: missing" in refused("data", "motion")
    assert '"surplus": not expected here' in refused("info", "surplus")
    assert "VIDEOS, --checkpoint: missing" in refused("predict")
    assert 'one of mixing, spatial, local, joint, divided, got mixin. Did you mean "mixing"?' in refused(
        "info", "--attention", "mixin"
    )
    assert refused("info", "--num-frames", "0") == "num_frames=0: expected a number, at least 1"
    assert refused("predict", "x.mp4", "--checkpoint", "x", "--top", "0") == "top=0: expected a number, at least 1"


def test_data_motion_writes_videos_and_refuses_a_folder_in_use(run, refused, tmp_path):
    output = tmp_path / "videos"
    code, out, err = run("data", "motion", "--output", output, "--clips_per_class", 1, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    files = list(output.rglob("*.mp4"))
    assert told["videos"] == len(files) == len(CLASSES) == told["classes"]
    assert told["bytes"] == sum(file.stat().st_size for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    assert "exists and is not an empty folder" in refused("data", "motion", "--output", output)
    assert before == {file: file.stat().st_mtime_ns for file in output.rglob("*.mp4")}


def test_info_gives_parameters_and_the_papers_multiply_adds_beside_ours(run):
    code, out, _ = run("info", "--backbone", "vit_base_patch16_224", "--num-frames", 8, "--json")
    assert code == 0
    facts = json.loads(out)
    D, patches, layers, frames = 768, 196, 12, 8
    N = patches + 1
    rest = 9 * D * D + 2 * N * D  # what the last layer does for a token whose output nobody reads: all but its q, k, v
    frame = patches * 16 * 16 * 3 * D + layers * (N * 12 * D * D + 2 * N * N * D)  # embedding, projections, attention
    head = (frames + 1) * 12 * D * D + 2 * (frames + 1) ** 2 * D  # temporal attention
    assert facts["macs_per_view"] == pytest.approx(frames * (frame - patches * rest) + head, rel=1e-3)
    assert facts["macs_1x3_views"] == 3 * facts["macs_per_view"]
    assert facts["macs_1x3_views_all_tokens"] == pytest.approx(3 * (frames * frame + head), rel=1e-3)
    assert facts["macs_1x3_views_all_tokens"] == pytest.approx(425e9, rel=0.02)
    assert facts["paper_macs_1x3_views"] == 425e9
    assert facts["input"] == [8, 3, 224, 224]
    image = sum(p.numel() for p in timm.create_model("vit_base_patch16_224", num_classes=0).parameters())
    extra = facts["parameters"] - image
    assert extra == pytest.approx(12 * D * D, rel=0.01)  # one layer of temporal attention
    text = run("info", "--num_frames=8")[1]
    assert "(the paper gives 425.0e9; 421.7e9 with all tokens of the last layer)" in text
    assert "paper" not in run("info", "--attention", "spatial")[1]
    assert "paper" not in run("info", "--num-frames", 4)[1]


def test_info_of_a_checkpoint(run, refused, checkpoint, tmp_path):
    facts = json.loads(run("info", "--checkpoint", checkpoint, "--json")[1])
    assert facts["labels"] == sorted(CLASSES)
    assert facts["clip"]["image_size"] == 48
    assert facts["input"] == [4, 3, 48, 48]
    assert "no such checkpoint directory" in refused("info", "--checkpoint", tmp_path / "none")


def test_info_refuses_backbones_that_take_no_scheme(refused):
    assert "xvit info --backbones lists them" in refused("info", "--backbone", "resnet50")
    assert 'Did you mean "vit_base_patch16_224"?' in refused("info", "--backbone", "vit_base_patch16_242")


def test_info_lists_backbones(run, monkeypatch):
    few = ["vit_tiny_patch16_224", "vit_base_patch16_xp_224"]  # the blocks of the second have no attention module
    monkeypatch.setattr(timm, "list_models", lambda *args, **kwargs: few)
    assert json.loads(run("info", "--backbones", "--json")[1]) == few[:1]


def test_train_eval_predict_end_to_end(run, refused, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output]
    code, out, err = run(*words, "--train.lr", "0.002", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["best"] == str(output / "best")
    assert from_dict(RunConfig, yaml.safe_load((output / "config.yaml").read_text()), "").train.lr == 0.002
    weights = (output / "last" / "model.safetensors").read_bytes()

    assert "--resume" in refused(*words)  # the run is there: neither overwritten nor silently gone on with
    assert "train.lr was 0.002" in refused(*words, "--resume")
    assert (output / "last" / "model.safetensors").read_bytes() == weights
    code, out, _ = run(*words, "--resume", "--train.lr", "0.002")
    assert code == 0
    assert "best epoch" in out

    result = tmp_path / "result"
    code, out, err = run("eval", "--checkpoint", output / "best", "--data.root", videos, "--output", result, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["top1"] == pytest.approx(told["metrics"]["top1"])
    assert (result / "confusion.png").stat().st_size > 1000
    assert "not an empty folder" in refused(
        "eval", "--checkpoint", output / "best", "--data.root", videos, "--output", result
    )

    code, out, err = run("predict", videos / "val" / "moving_left", "--checkpoint", output / "best", "--json")
    assert (code, err) == (0, "")
    [said] = json.loads(out)["predictions"]
    assert said["path"] == str(videos / "val" / "moving_left" / "0000.mp4")
    assert len(said["labels"]) == len(said["scores"]) == 5
    assert set(said["labels"]) <= set(CLASSES)


def test_eval_names_failed_videos(run, checkpoint, tmp_path, bad_videos):
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            write_video(tmp_path / "data" / split / name / "a.mp4")
    bad = tmp_path / "data" / "val" / CLASSES[0] / "b.mp4"
    bad.write_bytes(bad_videos["text"].read_bytes())
    code, out, err = run("eval", "--checkpoint", checkpoint, "--data.root", tmp_path / "data", "--data.num_workers", 0)
    assert code == 1
    assert "of 2 videos" in out
    assert "1 of 3 videos could not be read" in err
    assert str(bad) in err


def test_recipe_overrides_and_print_config(run, recipe, tmp_path):
    words = ["train", "--config", recipe, "--train.epochs=9", "--model.num-frames", "4", "--print-config"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    config = from_dict(RunConfig, yaml.safe_load(out), "printed")
    assert config.train.epochs == 9  # the command line over the recipe
    assert config.train.batch_size == 8  # the recipe over the default
    assert config.train.lr == 1e-3  # the default
    assert run("train", "--config", printed, "--print-config")[1] == out


def test_recipes_that_are_wrong(refused, recipe, tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "wrong.yaml"
        path.write_text(text)
        return path

    words = ["train", "--output", tmp_path / "run", "--data.root", tmp_path, "--config"]
    assert 'unknown key "epoch" in TrainConfig. Did you mean "epochs"?' in refused(*words, write("train: {epoch: 3}"))
    assert "epochs" in refused(*words, write("train: {epochs: many}"))
    assert "epochs=0: expected a number, at least 1" in refused(*words, write("train: {epochs: 0}"))
    assert "expected a mapping" in refused(*words, write("- 1"))
    assert "not readable as YAML" in refused(*words, write("a: b: c"))
    assert "no such file" in refused(*words, tmp_path / "none.yaml")
    assert "--train.lr: expected float, got fast" in refused(*words, recipe, "--train.lr", "fast")
    assert 'Did you mean "--train.epochs"?' in refused(*words, recipe, "--train.epoch", "1")
    assert "--data.root: missing" in refused("train", "--output", "x")
    assert "--output: missing" in refused("train", "--data.root", "x")
    assert not (tmp_path / "run").exists()


def test_training_data_that_is_wrong(refused, recipe, videos, tmp_path):
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


def test_predict_goes_on_past_bad_files(run, checkpoint, bad_videos, tmp_path):
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
    told = json.loads(out)
    assert [said["path"] for said in told["predictions"]] == [str(path) for path in good]
    assert [failure["path"] for failure in told["failed"]] == [str(path) for path in bad_videos.values()]


def test_predict_on_a_folder_without_videos(run, checkpoint, tmp_path):
    code, _, err = run("predict", tmp_path, "--checkpoint", checkpoint)
    assert code == 1
    assert str(tmp_path) in err


def test_checkpoints_that_are_none(refused, checkpoint, tmp_path):
    words = ["predict", "x.mp4", "--checkpoint"]
    assert "no such checkpoint directory" in refused(*words, tmp_path / "none")
    assert "not a checkpoint directory" in refused(*words, tmp_path)
    assert "a file; expected a checkpoint directory" in refused(*words, checkpoint / "config.json")


def test_output_to_a_file_is_plain_and_whole(run, checkpoint, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    deep = tmp_path / ("a_long_name_" * 12)
    deep.mkdir()
    video = deep / "[red]clip.mp4"
    video.write_bytes((videos / "val" / "moving_left" / "0000.mp4").read_bytes())
    code, out, err = run("predict", video, "--checkpoint", checkpoint)
    assert (code, err) == (0, "")
    assert str(video) in out
    assert "\x1b" not in out


def test_a_file_name_that_is_no_text(run, checkpoint, tmp_path, videos):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    Path(path).write_bytes((videos / "val" / "moving_left" / "0000.mp4").read_bytes())
    code, out, err = run("predict", path, path + "x", "--checkpoint", checkpoint)
    assert code == 1
    assert "caf\\udce9.mp4" in out
    assert "caf\\udce9.mp4x" in err
    code, out, _ = run("predict", path, "--checkpoint", checkpoint, "--json")
    assert (code, json.loads(out)["predictions"][0]["path"]) == (0, path)


def test_a_closed_pipe_is_no_error(tmp_path):
    words = [*XVIT, "data", "motion", "--output", str(tmp_path / "videos"), "--clips-per-class", "1"]
    command = f"{shlex.join(words)} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_ctrl_c_says_how_to_go_on(run, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xvit.data.synthetic.motion.write_motion_dataset", stop)
    code, out, err = run("data", "motion", "--output", "x")
    assert (code, out, err) == (130, "", "xvit: stopped. Run the same command to start again.\n")


def test_ctrl_c_in_a_training_with_workers_then_resume(run, videos, recipe, tmp_path):
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", videos, "--output", output, "--train.epochs=3", "--json"]
    words += ["--data.num_workers=1"]
    training = subprocess.Popen([*XVIT, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (output / "last" / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    noticed, told = err.splitlines()  # the first at once: a step may take long
    assert noticed.startswith("stopping after this step")
    assert "--resume" in told
    assert run(*words, "--resume", "--data.num_workers=0")[::2] == (0, "")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["stage"] == "eval"] == [1, 2, 3]


def test_a_training_with_an_unreadable_video_ends_with_1_and_says_where_it_is_named(run, videos, recipe, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    next((tmp_path / "videos" / "train" / "moving_left").iterdir()).write_text("no video")
    output = tmp_path / "run"
    words = ["train", "--config", recipe, "--data.root", tmp_path / "videos", "--output", output, "--train.epochs=1"]
    code, out, err = run(*words, "--json")
    assert code == 1
    assert json.loads(out)["bad_videos"] == 1
    assert f"1 videos could not be read: {output / 'bad_videos.jsonl'} names them" in err
    code, _, err = run(*words, "--resume", "--json")
    assert code == 1
    code, _, err = run(*words[:-2], tmp_path / "other", "--train.epochs=1", "--resume", "--json")
    assert err.startswith(f"{tmp_path / 'other'}: nothing to go on with, so a new run begins\n")


def test_a_model_that_cannot_be_streamed_is_named(refused, checkpoint, videos):
    video = next((videos / "val" / "moving_left").iterdir())
    text = refused("stream", video, "--checkpoint", checkpoint)
    assert text.startswith(f"{checkpoint}: this model cannot be streamed: temporal_position='input'")
    assert "recipes/motion-streaming.yaml" in text
