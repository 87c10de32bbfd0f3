"""The completion script, in a real shell."""

import shutil
import subprocess
from contextlib import redirect_stdout

import pytest

from xvit.cli.main import COMMANDS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "xvit.bash"
    with path.open("w") as file, redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


def complete(script, *words: str) -> set[str]:
    """What bash offers for the last word."""
    code = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_xvit; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code, script, "xvit", *words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pre"], {"predict"}),
        (["data", ""], {name.split()[1] for name in COMMANDS if name.startswith("data ")}),
        (["export", "model", "--form"], {"--format"}),
        (["export", "model", "--format", ""], {"onnx", "openvino", "torch"}),
        (["data", "check", "--data.ro"], {"--data.root"}),
        (["completion", ""], {"bash", "zsh", "tcsh"}),
    ],
)
def test_bash_offers(script, words, offered):
    assert complete(script, *words) == offered


def test_all_commands_are_offered(script):
    assert complete(script, "") == {name.split()[0] for name in COMMANDS}


def test_other_shells(run, cli_error):
    assert run("completion", "zsh")[1].startswith("#compdef xvit")
    assert run("completion", "tcsh")[0] == 0
    assert "expected bash, zsh or tcsh" in cli_error("completion", "fish")
