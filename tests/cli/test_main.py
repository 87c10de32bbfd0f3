"""The entry point: overview, lookup of commands, exit codes, output streams."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xvit.cli.exit_codes import INTERRUPTED, USER_ERROR
from xvit.cli.main import COMMANDS, DISTRIBUTED, fail, find_command, main
from xvit.cli.parsing import CommandParser, parse_command

ROOT = Path(__file__).parents[2]


def test_overview_lists_all_commands_and_imports_no_heavy_package():
    code = (
        "import sys; from xvit.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'timm', 'matplotlib', 'torchvision', 'jsonargparse', 'rich', 'yaml', 'numpy', 'av'}; "
        "sys.exit(code or ', '.join(heavy & set(sys.modules)) or 0)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert all(f"  {name} " in completed.stdout for name in COMMANDS)


def test_no_command_prints_the_overview(run):
    assert run() == run("--help") == run("-h")
    assert run()[0] == 0
    assert "data motion" in run("data")[1]
    assert "predict" not in run("data", "--help")[1].split("all commands")[0]
    assert run("--version")[1].startswith("xvit 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(name, run, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(CommandParser, "check_paths", lambda *_: None)  # the examples' videos and checkpoints
    code, out, err = run(*name.split(), "--help")
    assert (code, err) == (0, "")
    lines = out.replace("\\\n", " ").splitlines()
    examples = [line.strip() for line in lines if line.startswith("  xvit ")]
    assert any(example.startswith(f"xvit {name}") for example in examples)
    for example in examples:
        words = shlex.split(example.split(" > ")[0], comments=True)
        with contextlib.suppress(SystemExit):  # raised by --print-config
            parse_command(*find_command(words[1:]))


def test_help_lines_fit_into_a_terminal(run):
    for name in COMMANDS:
        description = run(*name.split(), "--help")[1].split("examples:")[0].split("\n\n", 1)[1]
        assert max(len(line) for line in description.splitlines()) <= 110, name


def test_unknown_command_suggests_the_nearest_one(cli_error):
    assert 'no command "trian". Did you mean "train"?' in cli_error("trian")
    assert 'no command "data moton". Did you mean "data motion"?' in cli_error("data", "moton")


def test_output_to_a_file_is_plain_and_not_wrapped(run, checkpoint, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / ("a_long_name_" * 12)
    folder.mkdir()
    video = folder / "[red]clip.mp4"
    video.write_bytes((videos / "val" / "moving_left" / "0000.mp4").read_bytes())
    code, out, err = run("predict", video, "--checkpoint", checkpoint)
    assert (code, err) == (0, "")
    assert str(video) in out
    assert "\x1b" not in out


def test_file_name_that_is_not_valid_text(run, checkpoint, tmp_path, videos):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    Path(path).write_bytes((videos / "val" / "moving_left" / "0000.mp4").read_bytes())
    Path(path + "x").write_text("not a video")
    code, out, err = run("predict", path, path + "x", "--checkpoint", checkpoint)
    assert code == 1
    assert "caf\\udce9.mp4" in out
    assert "caf\\udce9.mp4x" in err
    code, out, _ = run("predict", path, "--checkpoint", checkpoint, "--json")
    assert (code, json.loads(out)["predictions"][0]["path"]) == (0, path)


def test_closed_pipe_is_not_an_error(closed_pipe, tmp_path):
    words = [sys.executable, "-m", "xvit", "data", "motion", "--output", str(tmp_path / "videos")]
    words += ["--clips-per-class", "1"]
    completed = subprocess.run(words, stdout=closed_pipe, stderr=subprocess.PIPE, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_ctrl_c_prints_how_to_continue(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xvit.data.synthetic.dataset.write_motion_dataset", interrupt)
    code, out, err = run("data", "motion", "--output", "x")
    assert (code, out, err) == (130, "", "xvit: stopped. Run the same command to start again.\n")


@pytest.mark.parametrize("name", DISTRIBUTED)
@pytest.mark.parametrize("exit_code", [0, 1])
def test_no_process_returns_before_the_others_have_their_result(name, exit_code, monkeypatch):
    """torchrun ends all processes as soon as one has returned 1, for a video that could not be read."""
    order = []
    monkeypatch.setattr("xvit.cli.parsing.parse_command", lambda *words: {})
    monkeypatch.setattr(f"xvit.cli.{name}.run", lambda args: order.append("run") or exit_code)
    monkeypatch.setattr("xvit.utils.distributed.all_gather", lambda value: order.append("wait") or [value])
    assert main([name]) == exit_code
    assert order == ["run", "wait"]


def test_error_of_another_process_is_printed_with_its_rank(capsys, monkeypatch):
    """The first process prints an error that all have; the others wait, so that the launcher stops them."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert fail("error: no such file", USER_ERROR) == USER_ERROR
    assert capsys.readouterr().err == "xvit: process 1: error: no such file\n"
    assert len(waits) == 1
    assert fail("stopped.", INTERRUPTED) == INTERRUPTED
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    fail("error: no such file", USER_ERROR)
    assert capsys.readouterr().err == "xvit: error: no such file\n"
    assert len(waits) == 1


def test_without_a_folder_for_temporary_files_the_variable_is_named(cli_error, monkeypatch, tmp_path):
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]  # which do not exist
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", None)
        patch.setattr("tempfile._candidate_tempdir_list", lambda: folders)
        message = cli_error("info")
    assert message == f"no folder for temporary files can be written: {folders}; set TMPDIR to another"


def test_commands_for_a_single_process_refuse_torchrun(cli_error, monkeypatch, tmp_path):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    message = cli_error("predict", tmp_path / "a.mp4", "--checkpoint", tmp_path)
    assert message == "xvit predict runs in a single process; start it without torchrun"


# For each command, mistakes in its paths: the words, and the message. {x} stands for what is there: a folder `empty`, a
# file `file.txt`, a folder `full` with a file in it, a checkpoint `best`, a training run `run` with a checkpoint in it.
PATH_MISTAKES = {
    "completion": {},
    "predict": {
        "none.mp4 --checkpoint {best}": "none.mp4: no such file or folder",
        "{file} none --checkpoint {best}": "none: no such file or folder",
        "{file} --checkpoint {file}/best": "no such checkpoint directory",
        "{file} --checkpoint {empty}/best": "no such checkpoint directory",
        "{file} --checkpoint {file}": "a file; expected a checkpoint directory",
        "{file} --checkpoint {empty}": "not a checkpoint directory",
        "{file} --checkpoint {run}": 'did you mean "{run}/best"?',
        "--input none.txt --output x --checkpoint {best}": "none.txt: no such file or folder",
        "--input {file} --output {file} --checkpoint {best}": "is a file; expected a directory",
    },
    "eval": {
        "--checkpoint none --data.root {empty}": "none: no such checkpoint directory",
        "--checkpoint {best} --data.root none": "none: no such folder",
        "--checkpoint {best} --data.root {file}": "a file, not a folder",
        "--checkpoint {best} --data.root {empty} --data.format list --data.val none.txt": "none.txt: no such file",
        "--checkpoint {best} --data.root {empty} --data.label_files none.txt": "none.txt: no such file",
        "--checkpoint {best} --data.root {empty} --output {full}": "exists and is not an empty directory",
        "--checkpoint {best} --data.root {empty} --submission {empty}": "is a directory; expected the name of a file",
    },
    "order": {
        "none --data.root {empty}": "none: no such checkpoint directory",
        "{best} --data.root none": "none: no such folder",
        "{best} --data.root {empty} --pairs none.json": "none.json: no such file",
        "{best} --data.root {empty} --data.format list --data.val none.txt": "none.txt: no such file",
    },
    "calibrate": {
        "none --data.root {empty}": "none: no such checkpoint directory",
        "motion --data.root {empty}": "motion: expected a folder of yours, whose config.json can be changed",
        "hf://a/b --data.root {empty}": "hf://a/b: expected a folder of yours, whose config.json can be changed",
        "{best} --data.root none": "none: no such folder",
        "{best} --data.root {empty} --unknown none.mp4": "none.mp4: no such file or folder",
        "{best} --data.root {empty} --output {full}": "exists and is not an empty directory",
    },
    "stream": {
        "none.mp4 --checkpoint {best}": "none.mp4: no such file or folder",
        "- --checkpoint none": "none: no such checkpoint directory",
    },
    "timeline": {
        "none.mp4 --checkpoint {best}": "none.mp4: no such file or folder",
        "{file} --checkpoint none": "none: no such checkpoint directory",
        "{file} --checkpoint {best} --ground-truth none.json": "none.json: no such file",
        "{file} --checkpoint {best} --output {file}": "is a file; expected a directory",
    },
    "finetune": {
        "none": "none: no such folder",
        "{file}": "a file, not a folder",
        "{empty} --init none": "none: no such file or",
        "{empty} --output {file}": "is a file; expected a directory",
        "{empty} --data.format list --data.train none.txt": "none.txt: no such file",
    },
    "explain": {
        "none.mp4 --checkpoint {best}": "none.mp4: no such file or folder",
        "{file} --checkpoint none": "none: no such checkpoint directory",
        "{file} --checkpoint {best} --output {full}": "exists and is not an empty directory",
    },
    "serve": {
        "none": "none: no such checkpoint directory",
        "name={file}": "a file; expected a checkpoint directory",
        "a/b=none": "a/b=none: no such checkpoint directory",
    },
    "features": {
        "none.mp4 --checkpoint {best} --output x.npy": "none.mp4: no such file or folder",
        "{file} --checkpoint none --output x.npy": "none: no such checkpoint directory",
        "{file} --checkpoint {best} --output {file}/x.npy": "file.txt: is a file; expected a directory",
        "{file} --backbone b --checkpoint_path none.pth --output x.npy": "none.pth: no such file or folder",
    },
    "probe": {"none.npy none.npy": "none.npy: no such file", "{file} {empty}": "a folder, not a file"},
    "train": {
        "--config none.yaml --data.root {empty} --output x": "none.yaml",
        "--config {file} --data.root {empty} --output x": "expected a mapping of settings",
        "--data.root none --output x": "none: no such folder",
        "--data.root {empty} --output {file}": "is a file; expected a directory",
        "--data.root {empty} --output x --data.train none.txt": "none.txt: no such file",
        "--data.root {empty} --output x --init.checkpoint_path none": "none: no such file or folder",
    },
    "data check": {
        "--data.root none": "none: no such folder",
        "--data.root {empty} --output {full}": "exists and is not an empty directory",
    },
    "data pack": {
        "--data.root none --output x": "none: no such folder",
        "--data.root {empty} --output {file}": "is a file; expected a directory",
        "--data.root {empty} --data.format list --data.train none.txt --output x": "none.txt: no such file",
    },
    "data resize": {
        "none --output x": "none: no such folder",
        "{empty} --output {file}": "is a file; expected a directory",
    },
    "data motion": {"--output {file}/x": "file.txt is a file; expected a directory"},
    "demo": {"--output {file}": "is a file; expected a directory", "--config none.yaml": "none.yaml"},
    "ablate": {"--output {file}": "is a file; expected a directory"},
    "benchmark": {"--output {file}": "is a file; expected a directory"},
    "info": {"--checkpoint none": "none: no such checkpoint directory"},
    "export": {
        "none --output x --videos {empty}": "none: no such checkpoint directory",
        "{best} --output {full} --videos {empty}": "exists and is not an empty directory",
        "{best} --output x --videos none": "none: no such file or folder",
    },
    "convert": {
        "none --output x": "none: no such file or folder",
        "{best} --output {full}": "exists and is not an empty directory",
        "{file} --output x --num-frames 8 --class-names none.txt": "none.txt: no such file",
    },
}


def test_mistakes_in_paths_are_told_before_the_slow_imports(tmp_path):
    """All cases in one process, in which torch must not be imported at the end."""
    places = {name: tmp_path / name for name in ("empty", "full", "best", "run")}
    for place in (*places.values(), places["run"] / "best"):
        place.mkdir()
    places["file"] = tmp_path / "file.txt"
    for path in (places["file"], places["full"] / "file.txt"):
        path.write_text("text\n")
    for folder in (places["best"], places["run"] / "best"):
        for name in ("model.safetensors", "config.json"):
            (folder / name).touch()
    cases = [
        ([*name.split(), *words.format(**places).split()], message.format(**places))
        for name in COMMANDS
        for words, message in PATH_MISTAKES[name].items()
    ]
    code = (
        "import json, sys; from xvit.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code, torch = main(words), 'torch' in sys.modules\n"
        "    print(code, torch, file=sys.stderr)"
    )
    words = json.dumps([words for words, _ in cases])
    completed = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, cwd=tmp_path)
    assert completed.stdout == ""
    lines = completed.stderr.splitlines()
    assert len(lines) == 2 * len(cases), completed.stderr
    for (words, message), error, result in zip(cases, lines[::2], lines[1::2], strict=True):
        assert error.startswith("xvit: error: "), words
        assert message in error, words
        assert result == f"{USER_ERROR} False", (words, error)
    assert not (tmp_path / "x").exists()
