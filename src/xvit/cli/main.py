"""The entry point of the command line: the list of commands, their overview, and errors as exit codes."""

import logging
import os
import sys
import time
from importlib import import_module
from types import ModuleType

from xvit.cli.exit_codes import INTERRUPTED, SUCCESS, USER_ERROR
from xvit.utils import distributed
from xvit.utils.errors import XViTError, did_you_mean
from xvit.utils.version import __version__

# To add a command, add an entry here and a module to this package, whose name has "_" for the space.
GROUPS: dict[str, dict[str, str]] = {
    "first steps": {
        "demo": "generate videos, train three models on them and compare them in a report (about 8 minutes, 2 cores)",
        "data motion": "write the built-in data set: short videos of moving shapes",
    },
    "your videos": {
        "data check": "find missing, corrupt or short videos in a data set",
        "data resize": "write smaller copies of videos, which training decodes faster",
        "train": "train a model on labelled videos, with the settings of a recipe file",
        "eval": "measure the accuracy of a trained model on labelled videos",
        "predict": "classify videos",
        "stream": "classify a live stream: a camera, a network address, a pipe",
        "timeline": "find when each class occurs in long videos",
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
    ["demo", "data resize", "features", "benchmark", "ablate"], "Run the same command to continue."
)
DISTRIBUTED = ("train", "eval")  # torchrun or accelerate launch may run these in several processes
_LAUNCHER_SECONDS = 5.0  # torchrun stops the other processes within this time after the first one has failed

_FOOTER = """\
all commands
  --help       options and examples
  --json       print the result as JSON, and nothing else, to standard output
  exit codes   0: success; 1: some videos failed; 2: invalid arguments or input; 130: stopped by Ctrl-C;
               143: stopped by SIGTERM

example
  xvit data motion --output videos --clips-per-class 340
  xvit train --config motion --data.root videos --output run
  xvit predict videos/val/moving_left --checkpoint run/best"""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `xvit`; those of the process if None.

    Returns:
        The exit code: 0 success, 1 some videos failed, 2 invalid arguments or input, 130 stopped by Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    _set_up_output()
    name = ""
    try:
        if text := overview(argv):
            print(text)
            return SUCCESS
        from xvit.cli.parsing import parse_command

        name, module, options = find_command(argv)
        if distributed.world_size() > 1 and name not in DISTRIBUTED:
            raise XViTError(f"xvit {name} runs in a single process; start it without torchrun")
        exit_code: int = module.run(parse_command(name, module, options))
        sys.stdout.flush()  # so that a closed pipe is noticed here, not when the interpreter shuts down
        return exit_code
    except SystemExit as stop:  # raised by --help
        return stop.code if isinstance(stop.code, int) else SUCCESS
    except BrokenPipeError:  # the reader of `xvit ... | head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SUCCESS
    except KeyboardInterrupt as interrupt:  # `Interrupted` carries its own advice and exit code
        message = str(interrupt) or f"stopped. {RESUME.get(name, 'Run the same command to start again.')}"
        return fail(message, getattr(interrupt, "exit_code", INTERRUPTED))
    except (XViTError, OSError) as error:
        return fail(f"error: {' '.join(str(error).split())}", USER_ERROR)


def find_command(argv: list[str]) -> tuple[str, ModuleType, list[str]]:
    """Look up a command.

    Args:
        argv: the arguments after `xvit`, such as ["data", "motion", "--output", "videos"].

    Returns:
        The name of the command, its imported module, and the arguments after the name.

    Raises:
        XViTError: there is no such command.
    """
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, import_module(f"xvit.cli.{name.replace(' ', '_')}"), argv[words:]
    family = [command for command in COMMANDS if command.startswith(f"{argv[0]} ")]
    name = " ".join(argv[:2]) if family else argv[0]
    raise XViTError(f'no command "{name}".{did_you_mean(name, family or COMMANDS)} Known: {", ".join(COMMANDS)}')


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
    print(f"xvit: {message.strip()}", file=sys.stderr)
    return exit_code


def _set_up_output() -> None:
    """Print log messages of the library; print nothing but errors in all processes except the first."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that is not valid text must not end a long run
            stream.reconfigure(errors="backslashreplace")
    log = logging.getLogger("xvit")
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO if distributed.is_main() else logging.CRITICAL)
    if not distributed.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
