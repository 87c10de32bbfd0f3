"""The command line: `xvit COMMAND [options]`. Parses, calls, prints; one module a command, imported when it is used."""

import logging
import os
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from xvit.utils import distributed
from xvit.utils.errors import XViTError, did_you_mean
from xvit.utils.version import __version__

DONE, SOME_FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
_LAUNCHER_SECONDS = 5.0  # within which torchrun ends all processes after the first has failed


@dataclass(frozen=True)
class Command:
    """A command and the module of `xvit.cli` that holds its `parse(argv)` and `run(args)`.

    Args:
        module: name within xvit.cli.
        summary: what it does, in one line of the overview.
        resume: how to go on after Ctrl-C.
        several: whether torchrun or accelerate launch may start it in several processes.
    """

    module: str
    summary: str
    resume: str = "Run the same command to start again."
    several: bool = False


# A new command is a module beside this file and a line here.
GROUPS: dict[str, dict[str, Command]] = {
    "to begin": {
        "demo": Command(
            "demo",
            "make videos, train three models on them, compare them in a report (about 8 minutes on 2 cores)",
            "Run the same command to go on where it stopped.",
        ),
        "data motion": Command("data_motion", "write the built-in data set: short videos of moving shapes"),
    },
    "your videos": {
        "data check": Command("data_check", "see whether each video of a data set is there, whole, long enough"),
        "data resize": Command(
            "data_resize",
            "write smaller copies of videos, which training decodes faster",
            "Run the same command to go on where it stopped.",
        ),
        "train": Command(
            "train",
            "train a model on a folder of videos, by a recipe file",
            "Run the same command with --resume to go on.",
            several=True,
        ),
        "eval": Command("evaluate", "measure a trained model on held-out videos", several=True),
        "predict": Command("predict", "name what happens in videos"),
        "stream": Command("stream", "name what happens in a camera, an address or a pipe, as it goes on"),
        "timeline": Command(
            "timeline",
            "find what happens when in long videos",
            "Run the same command with another --output to start again.",
        ),
        "features": Command(
            "features",
            "write feature vectors of videos to a file, from a trained model or an image model",
            "Run the same command to go on where it stopped.",
        ),
        "probe": Command("probe", "measure such features: nearest neighbours and a linear layer"),
    },
    "models": {
        "import": Command("convert", "turn a checkpoint of the paper's authors into one of ours"),
        "export": Command(
            "export", "write a trained model for ONNX Runtime, OpenVINO or torch.export, and compare them"
        ),
        "benchmark": Command(
            "benchmark",
            "measure XViT and other video transformers side by side on this machine",
            "Run the same command to go on where it stopped.",
        ),
        "ablate": Command(
            "ablate",
            "train the rows of the paper's ablation tables on made videos, and print them beside its figures",
            "Run the same command to go on where it stopped.",
        ),
        "info": Command("info", "parameters, multiply-adds and input of a model, before building it"),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `xvit`; those of the process by default.

    Returns:
        The exit code: 0 done, 1 some videos failed, 2 a mistake in what was given, 130 stopped by Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name in bytes that are no text must not end a run of hours
            stream.reconfigure(errors="backslashreplace")
    log = logging.getLogger("xvit")  # what a library keeps to itself, a command says: which weights were loaded
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO if distributed.is_main() else logging.CRITICAL)
    if not distributed.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the first process tells what all have done
    command = None
    try:
        if answer := _overview(argv):
            print(answer)
            return DONE
        command, module, rest = find_command(argv)
        if distributed.world_size() > 1 and not command.several:
            raise XViTError(f"xvit {' '.join(argv[: len(argv) - len(rest)])} runs in one process, without torchrun")
        code: int = module.run(module.parse(rest))
        sys.stdout.flush()  # here, where a closed pipe is caught, not in the interpreter's shutdown
        return code
    except SystemExit as stop:  # --help and the like
        return stop.code if isinstance(stop.code, int) else DONE
    except BrokenPipeError:  # `xvit ... | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except KeyboardInterrupt as interrupt:  # one of a training says itself how to go on
        code = getattr(interrupt, "exit_code", INTERRUPTED)
        return _complain(str(interrupt) or f"stopped. {command.resume if command else ''}", code)
    except (XViTError, OSError) as error:
        return _complain(f"error: {' '.join(str(error).split())}", USER_ERROR)


def find_command(argv: list[str]) -> tuple[Command, ModuleType, list[str]]:
    """The command that `argv` begins with, its module, and the words after it.

    Raises:
        XViTError: no such command.
    """
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return COMMANDS[name], import_module(f"xvit.cli.{COMMANDS[name].module}"), argv[words:]
    longer = [command for command in COMMANDS if command.startswith(f"{argv[0]} ")]
    name = " ".join(argv[:2]) if longer else argv[0]
    raise XViTError(f'no command "{name}".{did_you_mean(name, longer or COMMANDS)} Known: {", ".join(COMMANDS)}')


def _overview(argv: list[str]) -> str:
    if argv[:1] in (["--version"], ["-V"]):
        return f"xvit {__version__}"
    family = argv[0] if argv and any(name.startswith(f"{argv[0]} ") for name in COMMANDS) else ""
    if argv[1 if family else 0 :][:1] not in ([], ["-h"], ["--help"]):
        return ""
    lines = ["xvit: video transformers at the price of image transformers", ""]
    lines += [f"usage: xvit {family or 'COMMAND'} ... [options]      `xvit COMMAND --help` tells more of each", ""]
    for title, group in GROUPS.items():
        shown = {name: command for name, command in group.items() if name.startswith(family)}
        if shown:
            lines += [title, *(f"  {name:<13}{command.summary}" for name, command in shown.items()), ""]
    return "\n".join([*lines, _COMMON])


_COMMON = """\
all commands
  --json       results as JSON on the standard output, nothing else there
  exit codes   0 done; 1 some videos failed; 2 a mistake in what was given; 130 stopped by Ctrl-C, 143 by SIGTERM

an example
  xvit data motion --output videos --clips-per-class 340
  xvit train --config recipes/motion.yaml --data.root videos --output run
  xvit predict videos/val/moving_left --checkpoint run/best"""


def _complain(text: str, code: int) -> int:
    if not distributed.is_main():
        if code != USER_ERROR:  # stopped, as the first one, which says so
            return code
        time.sleep(_LAUNCHER_SECONDS)  # a mistake of all ends this one here: the launcher stops what the first one left
        text = f"process {distributed.rank()}: {text}"
    print(f"xvit: {text.strip()}", file=sys.stderr)
    return code
