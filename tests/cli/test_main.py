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
from xvit.cli.main import COMMANDS, fail, find_command
from xvit.cli.parsing import parse_command

ROOT = Path(__file__).parents[2]


def test_overview_lists_all_commands_and_imports_no_heavy_package():
    code = (
        "import sys; from xvit.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'timm', 'matplotlib', 'torchmetrics', 'jsonargparse', 'rich', 'yaml', 'numpy', 'av'}; "
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
    code, out, err = run(*name.split(), "--help")
    assert (code, err) == (0, "")
    examples = [line.strip() for line in out.splitlines() if line.startswith("  xvit ")]
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
    code, out, err = run("predict", path, path + "x", "--checkpoint", checkpoint)
    assert code == 1
    assert "caf\\udce9.mp4" in out
    assert "caf\\udce9.mp4x" in err
    code, out, _ = run("predict", path, "--checkpoint", checkpoint, "--json")
    assert (code, json.loads(out)["predictions"][0]["path"]) == (0, path)


def test_closed_pipe_is_not_an_error(tmp_path):
    words = [sys.executable, "-m", "xvit", "data", "motion", "--output", str(tmp_path / "videos")]
    command = f"{shlex.join([*words, '--clips-per-class', '1'])} | true; echo ${{PIPESTATUS[0]}}"
    completed = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (completed.stdout, completed.stderr) == ("0\n", "")


def test_ctrl_c_prints_how_to_continue(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xvit.data.synthetic.dataset.write_motion_dataset", interrupt)
    code, out, err = run("data", "motion", "--output", "x")
    assert (code, out, err) == (130, "", "xvit: stopped. Run the same command to start again.\n")


def test_error_of_another_process_is_printed_with_its_rank(capsys, monkeypatch):
    """The first process prints an error that all have; the others wait, so that the launcher stops them."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
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


def test_commands_for_a_single_process_refuse_torchrun(cli_error, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = cli_error("predict", tmp_path / "a.mp4", "--checkpoint", tmp_path)
    assert message == "xvit predict runs in a single process; start it without torchrun"
