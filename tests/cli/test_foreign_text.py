"""Class names, file names and errors in the output of the commands: in one line, and nothing that a terminal obeys."""

import json
import re
import shutil
from pathlib import Path

import pytest

from xvit.cli import terminal
from xvit.cli.main import main

# What could move the cursor, change colours or titles, reverse the text, or begin a line of its own.
FOREIGN = "a\x1b[31m\x9b2J\x1b]0;t\x07\rb\nxvit: done\tc\u2028d\u202ee\u200bf\x7f"
UNSAFE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
SHOWN = r"a\x1b[31m\x9b2J\x1b]0;t\x07\rb\nxvit: done\tc\u2028d\u202ee\u200bf\x7f"


@pytest.fixture(scope="module")
def places(tmp_path_factory, videos, checkpoint):
    """For benign and foreign text: a folder with a good and a bad video of that name, and a model with such classes."""
    made = {}
    for kind, text in (("benign", "a b c d e f g"), ("foreign", FOREIGN)):
        root = tmp_path_factory.mktemp(kind)
        folder = root / "videos" / text
        folder.mkdir(parents=True)
        shutil.copy(next(videos.rglob("*.mp4")), folder / f"good {text}.mp4")
        (folder / f"bad {text}.mp4").write_text("no video")
        shutil.copytree(checkpoint, root / "model")
        config = json.loads((root / "model/config.json").read_text())
        config["class_names"] = [f"{index} {text}" for index in range(len(config["class_names"]))]
        config["provenance"] = {"data": text}
        (root / "model/config.json").write_text(json.dumps(config))
        made[kind] = root
    return made


COMMANDS = {
    "predict": ["predict", "{root}/videos", "--checkpoint", "{root}/model", "--num-workers", "0"],
    "data check": ["data", "check", "--data.root", "{root}/videos", "--data.num_workers", "0"],
    "info": ["info", "--checkpoint", "{root}/model"],
    "timeline": ["timeline", "{root}/videos", "--checkpoint", "{root}/model", "--stride", "1", "--threshold", "0"],
    "resize": [
        "data",
        "resize",
        "{root}/videos",
        "--output",
        "{out}/{text}",
        "--num-workers",
        "0",
        "--short-side",
        "32",
    ],
    "no such file": ["predict", "{root}/{text}", "--checkpoint", "{root}/model"],
    "no such model": ["predict", "{root}/videos", "--checkpoint", "{root}/{text}"],
    "no such command": ["{text}"],
    "no such option": ["predict", "{root}/videos", "--checkpoint", "{root}/model", "--{text}"],
    "wrong value": ["predict", "{root}/videos", "--checkpoint", "{root}/model", "--top-k", "{text}"],
    "wrong recipe": ["train", "--config", "{text}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_foreign_text_is_escaped(command, places, tmp_path, capfd):
    outputs = {}
    for kind, root in places.items():
        text = FOREIGN if kind == "foreign" else "a b c d e f g"
        out = tmp_path / kind
        words = [word.format(root=root, text=text, out=out) for word in COMMANDS[command]]
        code = main(words)
        out, err = capfd.readouterr()
        assert not UNSAFE.search(out + err), out + err
        outputs[kind] = code, out.count("\n"), err.count("\n")
        if kind == "foreign" and command != "wrong value":  # there, white space is one space
            shown = SHOWN.partition(r"\r")[0] if command == "no such option" else SHOWN  # up to its first white space
            assert shown in out + err
    extra = command == "data check"  # the good video has one more problem: lists cannot hold its path
    assert outputs["foreign"] == outputs["benign"] or extra


def test_json_holds_the_names_as_they_are(places, run):
    root = places["foreign"]
    code, out, err = run("predict", root / "videos", "--checkpoint", root / "model", "--num-workers", "0", "--json")
    assert code == 1
    assert not UNSAFE.search(out.replace("\x7f", "") + err)
    values = json.loads(out)
    assert Path(values["predictions"][0]["path"]).name == f"good {FOREIGN}.mp4"
    assert values["predictions"][0]["labels"][0].endswith(FOREIGN)
    assert Path(values["failed"][0]["path"]).name == f"bad {FOREIGN}.mp4"


def test_a_path_with_a_line_break_is_a_problem_and_is_in_no_list(places, run, tmp_path):
    root = places["foreign"] / "videos"
    words = ["data", "check", "--data.root", root, "--data.val_fraction", 0, "--data.num_workers", 0]
    code, out, _ = run(*words, "--output", tmp_path / "r", "--json")
    assert code == 1
    report = json.loads(out)
    assert report == json.loads((tmp_path / "r/report.json").read_text())
    problems = {Path(problem["path"]).name: problem["kind"] for problem in report["problems"] if problem["path"]}
    assert problems[f"good {FOREIGN}.mp4"] == "line break"
    assert problems[f"bad {FOREIGN}.mp4"] == "unreadable"
    assert not (tmp_path / "r/train.txt").exists()
    assert not UNSAFE.search((tmp_path / "r/report.html").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ["stream", "{address}", "--checkpoint", "{model}", "--timeout", "1"],
        ["stream", "{address}", "--checkpoint", "{model}", "--raw", "2x2@1"],
        ["stream", "x{address}", "--checkpoint", "{model}"],
        ["predict", "{address}", "--checkpoint", "{model}"],
        ["predict", "v.mp4", "--checkpoint", "{address}"],
        ["features", "{address}", "--output", "f.npy"],
        ["{address}"],
        ["info", "{address}"],
    ],
)
@pytest.mark.parametrize("address", ["rtsp://user:S3CRET@127.0.0.1:1/door", "http://127.0.0.1:1/live.ts?token=S3CRET"])
def test_passwords_and_tokens_are_never_printed(address, words, checkpoint, cli_error):
    assert "S3CRET" not in cli_error(*(word.format(address=address, model=checkpoint) for word in words))


def test_cells_and_lines_keep_their_place(capsys):
    table = terminal.table("name", rows=[[FOREIGN], ["b"]], title=FOREIGN)
    terminal.console().print(table, terminal.key_values({"a": FOREIGN}), FOREIGN)
    terminal.echo(FOREIGN)
    terminal.echo(FOREIGN, stderr=True)
    out, err = capsys.readouterr()
    assert out.count(SHOWN) == 5
    assert err == f"{SHOWN}\n"
    assert not UNSAFE.search(out)
