"""Errors of the parser in one plain line: what was given, what was expected, the nearest option."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import yaml

from xvit.config.values import ValueTypeError, convert, describe, to_text
from xvit.config.yaml_file import parse_yaml
from xvit.utils.errors import find_nearest

_HIDDEN = ("h", "help", "print_shtab")  # options that are not listed


def explain(message: str, argv: Sequence[str], actions: Sequence[argparse.Action], prog: str) -> str:
    """An error message of jsonargparse in one plain line.

    Args:
        message: of the exception.
        argv: the arguments, with the options in their known spelling.
        actions: of the parser.
        prog: the command, such as "xvit train".
    """
    message = " ".join(message.split())
    if message.startswith("unrecognized arguments: "):
        first = message.removeprefix("unrecognized arguments: ").split()[0]
        if not first.startswith("-"):
            return f'unexpected argument "{first}". See `{prog} --help`'
        return explain_unknown(first.split("=")[0], [option for action in actions for option in action.option_strings])
    if message.startswith("the following arguments are required: "):
        missing = message.removeprefix("the following arguments are required: ").split(", ")
        options = {action.dest: action.option_strings[0] for action in actions if action.option_strings}
        return f"{', '.join(options.get(name, name.upper()) for name in missing)}: missing. See `{prog} --help`"
    if match := re.match(r"argument (\S+): expected (?:one|at least one|\d+) arguments?", message):
        return f"{match[1]}: expected a value. See `{prog} --help`"
    if match := re.match(r'(?:Parser key "|--)([-\w.]+)(?:" element \d+|")?: ', message):
        if action := next((action for action in actions if action.dest == match[1]), None):
            return _explain_value(action, message, argv)
        return f"--{match[1]}: {message[match.end() :]}"
    return message


def _explain_value(action: argparse.Action, message: str, argv: Sequence[str]) -> str:
    """Why the value of an option is not accepted."""
    option = action.option_strings[0] if action.option_strings else action.dest.upper()
    kind = getattr(action, "_typehint", None)
    if kind is None:  # a group, such as --train
        return f"{option}: expected one of its settings, such as {option}.NAME VALUE"
    given = re.search(r"(?:Got|Given) value: ?(.*)$", message)
    written = given[1] if given else ""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option and action.nargs is None:
            written = value if equals else following  # as it was typed
        elif name.startswith(f"{option}."):  # one key of a mapping
            option, kind = name, get_args(kind)[-1]
    problem = ValueTypeError((option,), written, describe(kind))
    for value in (written, _parse(written)):
        try:
            convert(kind, value, (option,))
        except ValueTypeError as error:
            problem = error
    return problem.explain(to_text(problem.value) if len(problem.keys) > 1 else written)


def _parse(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def explain_unknown(option: str, known: Iterable[str]) -> str:
    """That there is no such option, with the nearest one; if none is near, with those that there are.

    Args:
        option: such as --train.epoch.
        known: the options of the command.
    """
    groups: dict[str, dict[str, str]] = {}  # "train": {"lr": "--train.lr"}
    for name in known:
        group, _, leaf = name.lstrip("-").replace("-", "_").rpartition(".")
        groups.setdefault(group, {})[leaf] = name
    group, _, leaf = option.lstrip("-").replace("-", "_").rpartition(".")
    group = group if group in groups else find_nearest(group, groups) or group
    leaves: dict[str, Any] = {leaf: name for names in reversed(groups.values()) for leaf, name in names.items()}
    for names in (groups.get(group, {}), leaves):
        if near := find_nearest(leaf, names):
            return f'unknown option {option}. Did you mean "{names[near]}"?'
    here = groups.get(group) or groups[""]
    shown = [f"{name}.NAME" if leaf in groups else name for leaf, name in here.items() if leaf not in _HIDDEN]
    return f"unknown option {option}. Known: {', '.join(shown)}"
