"""Streams that are closed, full or gone; unexpected errors; a launcher's variables; Ctrl-C from the first moment on."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys

import pytest
import torch

from xvit.cli.main import main
from xvit.cli.streams import command_output

# A command that writes a result and prints more than fits into a buffer to both streams, and to the log.
COMMAND = """
import logging, sys
from pathlib import Path
import xvit.cli.main

def run(argv):
    log = logging.getLogger("xvit")
    for _ in range(3):
        print("x" * 20_000, flush=True)
        print("y" * 20_000, file=sys.stderr)
        log.warning("z" * 20_000)
    Path(argv[0]).write_text("result")
    return int(argv[1])

xvit.cli.main._run = run
sys.exit(xvit.cli.main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize(
    ("redirections", "stdout_fails"),
    [
        (">&-", False),
        ("2>&-", False),
        (">&- 2>&-", False),
        ("<&- >&- 2>&-", False),
        ("2>/dev/full", False),
        (">/dev/full", True),
        (">/dev/full 2>&-", True),
        (">/dev/full 2>/dev/full", True),
    ],
)
def test_the_work_is_done_whatever_becomes_of_the_streams(tmp_path, redirections, stdout_fails, exit_code):
    result = tmp_path / "result.txt"
    script = f'"$0" -c "$1" "$2" {exit_code} {redirections}'
    words = ["bash", "-c", script, sys.executable, COMMAND, str(result)]
    completed = subprocess.run(words, capture_output=True, text=True)
    assert result.read_text() == "result"
    assert completed.returncode == (2 if stdout_fails else exit_code)
    assert "Traceback" not in completed.stderr
    assert "Exception ignored" not in completed.stderr
    last = "xvit: error: standard output: No space left on device; the result is not printed"
    if stdout_fails and "2>" not in redirections:
        assert completed.stderr.splitlines()[-1] == last


def test_a_reader_that_closes_the_pipe_ends_the_command(closed_pipe, tmp_path):
    result = tmp_path / "result.txt"
    words = [sys.executable, "-c", COMMAND, str(result), "1"]
    completed = subprocess.run(words, stdout=closed_pipe, stderr=subprocess.PIPE, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert not result.exists()


@pytest.fixture
def failing(monkeypatch, run):
    """A function that runs a command that raises an error, and returns its exit code, output and error output."""

    def failing(error: BaseException) -> tuple[int, str, str]:
        def write(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("xvit.data.synthetic.dataset.write_motion_dataset", write)
        return run("data", "motion", "--output", "x")

    return failing


class PanicException(BaseException):
    """As libraries written in Rust raise it: not an `Exception`."""


NEEDS_LESS = "smaller batches or fewer frames need less"
REPORT = "(please report it; XVIT_DEBUG=1 shows the traceback)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("a bug\nin two lines"), f"unexpected RuntimeError: a bug in two lines {REPORT}"),
        (KeyError("name"), f"unexpected KeyError: 'name' {REPORT}"),
        (AssertionError(), f"unexpected AssertionError {REPORT}"),
        (RecursionError("too deep"), f"unexpected RecursionError: too deep {REPORT}"),
        (PanicException("panicked"), f"unexpected PanicException: panicked {REPORT}"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), f"unexpected BrokenPipeError: [Errno 32] Broken pipe {REPORT}"),
        (MemoryError(), f"out of memory; {NEEDS_LESS}"),
        (MemoryError("Unable to allocate 7 GiB"), f"out of memory: Unable to allocate 7 GiB; {NEEDS_LESS}"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
            f"out of memory: CUDA out of memory. Tried to allocate 2.00 GiB; {NEEDS_LESS}",
        ),
        (
            RuntimeError("err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error"),
            f"out of memory: err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes; "
            f"{NEEDS_LESS}",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a/b.json"), "a/b.json: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", b"a/b.json"), "a/b.json: Read-only file system"),
        (SystemExit("advice of a library"), "advice of a library"),
    ],
)
def test_an_error_is_one_line(failing, monkeypatch, error, expected):
    monkeypatch.delenv("XVIT_DEBUG", raising=False)
    assert failing(error) == (2, "", f"xvit: error: {expected}\n")
    monkeypatch.setenv("XVIT_DEBUG", "1")
    err = failing(error)[2]
    assert err.endswith(f"xvit: error: {expected}\n")
    assert err.startswith("Traceback") == (not isinstance(error, SystemExit))


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3), (True, 1)])
def test_exit_codes_of_libraries(failing, code, expected):
    assert failing(SystemExit(code)) == (expected, "", "")


LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.mark.parametrize("value", ["", " ", "0", "1"])
@pytest.mark.parametrize("names", [*[(name,) for name in LAUNCHER], LAUNCHER])
def test_variables_of_no_launcher_are_as_if_unset(run, monkeypatch, names, value):
    if value == "1" and "WORLD_SIZE" not in names:
        value = "3"  # a rank that another program left behind
    for name in names:
        monkeypatch.setenv(name, value)
    code, out, err = run("data", "motion", "--output", os.devnull)
    assert (code, out) == (2, "")
    assert err.startswith(f"xvit: error: {os.devnull}")
    assert not set(LAUNCHER) & set(os.environ)  # accelerate reads them, too


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize("value", ["many", "-1", "1.5", "0x2", "²"])
def test_variables_of_a_launcher_that_are_no_numbers(cli_error, monkeypatch, name, value):
    for other in LAUNCHER:
        monkeypatch.setenv(other, "2")
    monkeypatch.setenv(name, value)
    message = cli_error("data", "motion", "--output", "x")
    assert message.startswith(f"{name}='{value}': expected a whole number")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but RANK and LOCAL_RANK not set"),
        ({"WORLD_SIZE": "2", "RANK": "", "LOCAL_RANK": "0"}, "WORLD_SIZE=2, but RANK not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "RANK=2: expected a number below WORLD_SIZE=2"),
    ],
)
def test_variables_of_a_launcher_that_do_not_go_together(cli_error, monkeypatch, values, expected):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert cli_error("train", "--output", "x").startswith(expected)


# Sends Ctrl-C when a module is imported, at the first or at the last moment of the import.
INTERRUPT = """
import builtins, json, os, signal, sys
name, moment, words = json.loads(sys.argv[1])
sent = []

def interrupt():
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, module, *_):
        if module == name:
            interrupt()

if moment == "first":
    sys.meta_path.insert(0, Finder())
else:
    load = builtins.__import__
    def load_and_interrupt(*args, **kwargs):
        module = load(*args, **kwargs)
        if name in sys.modules:
            interrupt()
        return module
    builtins.__import__ = load_and_interrupt

sys.argv[1:] = words
from xvit.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize("moment", ["first", "last"])
@pytest.mark.parametrize(
    "module", ["xvit.cli.main", "xvit.cli.exit_codes", "xvit.utils.text", "xvit.cli.parsing", "jsonargparse", "numpy"]
)
def test_ctrl_c_while_modules_are_imported(module, moment, tmp_path):
    arguments = json.dumps([module, moment, ["data", "motion", "--output", str(tmp_path / "videos")]])
    completed = subprocess.run([sys.executable, "-c", INTERRUPT, arguments], capture_output=True, text=True)
    assert (completed.returncode, completed.stdout) == (130, "")
    assert completed.stderr.startswith("xvit: stopped.")
    assert completed.stderr.count("\n") == 1


def test_a_background_process_goes_on_ignoring_ctrl_c():
    """SIGINT is ignored in the background of a script, and stays so."""
    code = "import signal, sys; from xvit.__main__ import run; run(); sys.exit(signal.getsignal(2) != signal.SIG_IGN)"
    words = [sys.executable, "-c", code, "--version"]
    ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    assert subprocess.run(words, preexec_fn=ignore, capture_output=True).returncode == 0


def test_streams_are_as_before_after_a_command(capfd):
    before = sys.stdout, sys.stderr
    assert main(["--version"]) == 0
    assert (sys.stdout, sys.stderr) == before


def test_the_log_is_one_line_a_message(capsys):
    with command_output():
        logging.getLogger("xvit").warning("a\x1b[31m\nb")
    assert capsys.readouterr().err == "a\\x1b[31m\\nb\n"


OPEN_FILE = """
import os, sys
from xvit.cli.streams import command_output

with command_output():
    sys.exit(os.open(sys.argv[1], os.O_CREAT | os.O_RDWR) < 3)
"""


def test_the_next_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    words = ["bash", "-c", '"$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, OPEN_FILE, str(tmp_path / "a")]
    assert subprocess.run(words).returncode == 0
