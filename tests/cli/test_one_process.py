"""Two commands at once with the same output: the second one says who is at work, and changes nothing."""

import pytest

from helpers.files import locked_by_another_process
from xvit.cli.main import COMMANDS, find_command
from xvit.cli.parsing import CommandParser

ARGUMENTS = {
    "ablate": [],
    "benchmark": ["--models", "xvit", "--frames", "4"],
    "calibrate": ["{checkpoint}", "--data.root", "{videos}"],
    "convert": ["{recipe}"],
    "data check": ["--data.root", "{videos}"],
    "data motion": ["--clips-per-class", "3"],
    "data pack": ["--data.root", "{videos}"],
    "data resize": ["{videos}"],
    "demo": [],
    "eval": ["--checkpoint", "{checkpoint}", "--data.root", "{videos}"],
    "explain": ["{recipe}", "--checkpoint", "{checkpoint}"],  # any file: the lock comes first
    "export": ["{checkpoint}", "--videos", "{videos}"],
    "features": ["{videos}", "--checkpoint", "{checkpoint}"],
    "finetune": ["{videos}", "--init", "{checkpoint}"],
    "predict": ["--input", "{videos}", "--checkpoint", "{checkpoint}"],
    "timeline": ["{videos}", "--checkpoint", "{checkpoint}"],
    "train": ["--config", "{recipe}", "--data.root", "{videos}"],
}
SUFFIXES = {"convert": ".yaml", "features": ".npy"}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Outputs that another process writes, and that process."""
    folder = tmp_path_factory.mktemp("outputs")
    with (
        locked_by_another_process(folder / "out", "xvit demo"),
        locked_by_another_process(folder / "out.yaml", "xvit demo"),
        locked_by_another_process(folder / "out.npy", "xvit demo"),
    ):
        yield folder


def test_every_command_with_an_output_is_tested():
    def has_output(name: str) -> bool:
        parser = CommandParser(prog="xvit")
        find_command(name.split())[1].add_options(parser)
        return "--output" in parser.format_help()

    assert {name for name in COMMANDS if has_output(name)} == set(ARGUMENTS)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_two_at_once(command, other, cli_error, videos, checkpoint, recipe):
    before = sorted(other.iterdir())
    words = [word.format(videos=videos, checkpoint=checkpoint, recipe=recipe) for word in ARGUMENTS[command]]
    output = other / f"out{SUFFIXES.get(command, '')}"
    message = cli_error(*command.split(), *words, "--output", output)
    assert message.startswith(f"{output}: in use by xvit demo (process ")
    assert message.endswith("; wait until it ends, or choose another --output")
    assert sorted(other.iterdir()) == before


def test_the_lock_is_gone_when_a_command_ends(run, recipe, tmp_path):
    assert run("convert", recipe, "--output", tmp_path / "a" / "b.yaml")[0] == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.yaml"]
    assert run("data", "resize", tmp_path / "a", "--output", tmp_path / "c")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
