"""xvit completion SHELL

Print a script that lets a shell complete commands, options and their choices with the tabulator key.

examples:
  xvit completion bash > ~/.local/share/bash-completion/completions/xvit
  xvit completion zsh > ~/.zfunc/_xvit       # a folder in $fpath, before compinit in .zshrc
  xvit completion tcsh > ~/.xvit.tcsh        # then: source ~/.xvit.tcsh
"""

import argparse
from importlib import import_module
from typing import Literal, get_args

import shtab
from jsonargparse import Namespace

from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import CommandParser, make_parser
from xvit.cli.terminal import finish

Shell = Literal["bash", "zsh", "tcsh"]


def add_options(parser: CommandParser) -> None:
    parser.add("shell SHELL", Shell, f"one of {', '.join(get_args(Shell))}")


def run(args: Namespace) -> int:
    """Print the script."""
    script = shtab.complete(command_tree(), shell=args.shell)
    if args.json:
        return finish(args, {"shell": args.shell, "script": script})
    print(script)
    return SUCCESS


def command_tree() -> argparse.ArgumentParser:
    """All commands as one parser of argparse, with the names and choices of their options."""
    from xvit.cli.main import COMMANDS

    tree = argparse.ArgumentParser(prog="xvit")
    groups = {"": tree.add_subparsers()}
    for name, summary in COMMANDS.items():
        family, _, last = name.rpartition(" ")
        if family not in groups:
            groups[family] = groups[""].add_parser(family, help=f"commands of {family}").add_subparsers()
        command = groups[family].add_parser(last, help=summary, description=summary)
        for action in make_parser(name, import_module(f"xvit.cli.{name.replace(' ', '_')}"))._actions:
            if "-h" not in action.option_strings:
                _copy_option(command, action)
    return tree


def _copy_option(command: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Add an option with the same names. Its value is completed from its choices, else as the name of a file."""
    names = action.option_strings or [action.dest]
    help_text = str(action.help).replace("%", "%%")
    if action.nargs == 0:
        command.add_argument(*names, help=help_text, action="store_true")
        return
    choices = [choice for choice in get_args(getattr(action, "_typehint", None)) if isinstance(choice, str)]
    copied = command.add_argument(*names, help=help_text, nargs=action.nargs, choices=choices or None)
    if not choices:
        copied.complete = shtab.FILE  # type: ignore[attr-defined]
