"""The entry point of the command line: the list of commands, their overview, and errors as exit codes."""

import os
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType

from xvit.cli.exit_codes import INTERRUPTED, SUCCESS, USER_ERROR
from xvit.cli.streams import command_output
from xvit.utils import distributed, threads
from xvit.utils.addresses import allowed_only_inside
from xvit.utils.errors import XViTError, did_you_mean, install_hint, is_out_of_memory, one_line
from xvit.utils.locks import lock_directory
from xvit.utils.text import printable
from xvit.utils.version import __version__

# To add a command, add an entry here and a module to this package, whose name has "_" for the space.
GROUPS: dict[str, dict[str, str]] = {
    "first steps": {
        "demo": "classify videos with the bundled model, train two models and compare them (3 minutes, 2 cores)",
        "data motion": "write the built-in data set: short videos of moving shapes",
        "completion": "print a script that lets the shell complete commands and options",
    },
    "your videos": {
        "data check": "find missing, corrupt or short videos in a data set",
        "data resize": "write smaller copies of videos, which training decodes faster",
        "data pack": "write a data set as shards: large tar files, which network disks read fast",
        "finetune": "from a folder of labelled clips to a model of known accuracy, in minutes",
        "train": "train a model on labelled videos, with the settings of a recipe file",
        "eval": "measure the accuracy of a trained model on labelled videos",
        "order": "find out whether a model uses the order of frames",
        "calibrate": "make scores true probabilities, and reject videos of none of the classes",
        "predict": "classify videos",
        "stream": "classify a live stream: a camera, a network address, a pipe",
        "timeline": "find when each class occurs in long videos",
        "explain": "show which frames and patches decided, as pictures",
        "serve": "serve models over HTTP, with a page for the browser",
        "features": "write feature vectors of videos to a file",
        "probe": "measure feature vectors: nearest neighbours and a linear classifier",
    },
    "models": {
        "info": "show a model's parameters, multiply-adds and input, without building its weights",
        "export": "export a trained model to ONNX Runtime, OpenVINO or torch.export, and verify it",
        "convert": "convert a checkpoint of the paper's authors, or files of an earlier xvit version",
        "benchmark": "compare XViT with other video transformers on this machine: time, memory, MACs",
        "ablate": "repeat the paper's ablations on generated videos and compare with its numbers",
    },
}
COMMANDS: dict[str, str] = {name: summary for group in GROUPS.values() for name, summary in group.items()}
# What to do after Ctrl-C; the other commands start again.
RESUME = {"train": "Run the same command with --resume to continue."} | dict.fromkeys(
    ["demo", "data resize", "data pack", "finetune", "features", "benchmark", "ablate"],
    "Run the same command to continue.",
)
OWN_LOCK = (
    "train",
    "features",
    "data resize",
    "data pack",
)  # whose functions lock the output, for callers in Python too
DISTRIBUTED = ("train", "eval")  # torchrun or accelerate launch may run these in several processes
_LAUNCHER_SECONDS = 5.0  # torchrun stops the other processes within this time after the first one has failed

_FOOTER = """\
all commands
  --help       options and examples
  --json       print the result as JSON, and nothing else, to standard output
  exit codes   0: success; 1: some videos failed, or data check found problems; 2: invalid arguments or
               input, output that cannot be written; 130: stopped by Ctrl-C; 143: stopped by SIGTERM

example
  xvit data motion --output videos --clips-per-class 340
  xvit predict videos/val/moving_left --checkpoint motion
  xvit train --config motion --data.root videos --output run
  xvit predict videos/val/moving_left --checkpoint run/best"""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `xvit`; those of the process if None.

    Returns:
        The exit code; see `xvit.cli.exit_codes`.
    """
    argv = sys.argv[1:] if argv is None else argv
    launcher_error = distributed.check_environment()
    threads.sleep_while_waiting()
    with command_output() as stdout:
        try:
            if launcher_error:
                raise XViTError(launcher_error)
            with allowed_only_inside():
                exit_code = _run(argv)
            stdout.flush()  # so that an error is noticed here, not when the interpreter shuts down
        except BaseException as error:
            closed_pipe = isinstance(error, BrokenPipeError) and isinstance(stdout.error, BrokenPipeError)
            exit_code = SUCCESS if closed_pipe else _report(error, argv)  # the reader of `xvit ... | head` closed it
        if stdout.error and not isinstance(stdout.error, BrokenPipeError):
            exit_code = fail(f"error: standard output: {stdout.error.strerror}; the result is not printed", USER_ERROR)
    return exit_code


def _run(argv: list[str]) -> int:
    if text := overview(argv):
        print(text)
        return SUCCESS
    _check_temporary_directory()
    from xvit.cli.parsing import parse_command

    name, module, options = find_command(argv)
    if distributed.world_size() > 1 and name not in DISTRIBUTED:
        raise XViTError(f"xvit {name} runs in a single process; start it without torchrun")
    args = parse_command(name, module, options)
    has_own_lock = name in OWN_LOCK or args.get("input")  # shards of a large job share their output
    output = args.get("output") if not has_own_lock and distributed.is_main() else None
    with lock_directory(output, f"xvit {name}") if output else nullcontext():
        exit_code: int = module.run(args)
    distributed.barrier()  # a launcher ends all processes once one has returned anything but 0
    return exit_code


def _check_temporary_directory() -> None:
    """Raise `XViTError` if there is no folder for temporary files: torch and matplotlib cannot be imported then."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        folders = str(error).partition(" in ")[2]
        raise XViTError(f"no folder for temporary files can be written: {folders}; set TMPDIR to another") from None


def _report(error: BaseException, argv: list[str]) -> int:
    """Print in one line what ended a command, and return the exit code."""
    if isinstance(error, SystemExit):  # raised by --help; libraries raise it with a text or a code of their own
        return fail(f"error: {error.code}", USER_ERROR) if isinstance(error.code, str) else int(error.code or SUCCESS)
    if isinstance(error, KeyboardInterrupt):  # `Interrupted` carries its own advice and exit code
        advice = RESUME.get(_command_name(argv), "Run the same command to start again.")
        return fail(str(error) or f"stopped. {advice}", getattr(error, "exit_code", INTERRUPTED))
    if isinstance(error, XViTError):
        return fail(f"error: {str(error).strip()}", USER_ERROR)
    if os.environ.get("XVIT_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if is_out_of_memory(error):
        reason = f"out of memory: {'. '.join(str(error).split('. ')[:2])}".strip(":. ")  # torch goes on with statistics
        return fail(f"error: {reason}; smaller batches or fewer frames need less", USER_ERROR)
    if isinstance(error, OSError) and error.filename is not None:
        return fail(f"error: {os.fsdecode(error.filename)}: {error.strerror}", USER_ERROR)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("xvit"):
        name = error.name.partition(".")[0]  # of an installation without torch; see docs/guides/deploy.md
        hint = "pip install xvit" if name in ("torch", "torchvision", "timm") else install_hint([name])
        return fail(f"error: {name} is not installed, but this command or model needs it: {hint}", USER_ERROR)
    text = one_line(error, name=True, length=1000).strip(": ")
    return fail(f"error: unexpected {text} (please report it; XVIT_DEBUG=1 shows the traceback)", USER_ERROR)


def find_command(argv: list[str]) -> tuple[str, ModuleType, list[str]]:
    """Look up a command.

    Args:
        argv: the arguments after `xvit`, such as ["data", "motion", "--output", "videos"].

    Returns:
        The name of the command, its imported module, and the arguments after the name.

    Raises:
        XViTError: there is no such command.
    """
    if name := _command_name(argv):
        return name, import_module(f"xvit.cli.{name.replace(' ', '_')}"), argv[len(name.split()) :]
    family = [command for command in COMMANDS if command.startswith(f"{argv[0]} ")]
    name = " ".join(argv[:2]) if family else argv[0]
    raise XViTError(f'no command "{name}".{did_you_mean(name, family or COMMANDS)} Known: {", ".join(COMMANDS)}')


def _command_name(argv: list[str]) -> str:
    """The command that the arguments begin with; empty if there is none of that name."""
    return next((name for name in (" ".join(argv[:2]), " ".join(argv[:1])) if name in COMMANDS), "")


def overview(argv: list[str]) -> str:
    """The text for `xvit`, `xvit --help`, `xvit data` or `xvit --version`; empty for any other arguments."""
    if argv[:1] in (["--version"], ["-V"]):
        return f"xvit {__version__}"
    family = argv[0] if argv and any(name.startswith(f"{argv[0]} ") for name in COMMANDS) else ""
    if argv[1 if family else 0 :][:1] not in ([], ["-h"], ["--help"]):
        return ""
    lines = ["xvit turns any timm ViT into a video classifier at the image model's cost per frame.", ""]
    lines += [f"usage: xvit {family or 'COMMAND'} ... [options]      `xvit COMMAND --help` explains one command", ""]
    for title, group in GROUPS.items():
        commands = {name: summary for name, summary in group.items() if name.startswith(family)}
        if commands:
            lines += [title, *(f"  {name:<13}{summary}" for name, summary in commands.items()), ""]
    return "\n".join([*lines, _FOOTER])


def fail(message: str, exit_code: int) -> int:
    """Print a message to standard error and return the exit code.

    With several processes, an error that all of them have is printed by the first one: the others wait, so that the
    launcher stops them. An error of another process only is printed with its rank.
    """
    if not distributed.is_main():
        if exit_code != USER_ERROR:  # all processes were stopped; the first one says so
            return exit_code
        time.sleep(_LAUNCHER_SECONDS)
        message = f"process {distributed.rank()}: {message}"
    print(f"xvit: {printable(message.strip())}", file=sys.stderr)
    return exit_code
