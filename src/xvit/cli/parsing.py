"""Parsers of all commands: common options, errors in one line, recipes whose settings can be overridden."""

import argparse
import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Iterator

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace

from xvit.config import RunConfig, from_dict, read_yaml, to_dict
from xvit.utils.errors import XViTError, did_you_mean

TRAINING_ONLY = {"max_unreadable_fraction", "class_balanced"}  # fields of DataConfig that only training reads
_EXAMPLES = "\n\nexamples:\n"


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Wraps each line of a description by itself. Shows no type for options whose choices are shown already."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        description, _, examples = text.partition(_EXAMPLES)
        lines = [
            textwrap.fill(line, width, subsequent_indent="    " * line.startswith(" "))
            for line in description.splitlines()
        ]
        return "\n".join(lines) + _EXAMPLES * bool(examples) + examples

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text: str | None = super()._get_type_str(action)
        return None if text and text.startswith("Literal") else text


def make_parser(command: str, usage: str, description: str, examples: str) -> ArgumentParser:
    """Create the parser of one command.

    Args:
        command: its name, such as "data motion".
        usage: the arguments after the name, in one line.
        description: what the command does, what it reads and what it writes; each line is wrapped by itself.
        examples: commands that can be copied, one per line.
    """
    indented = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return ArgumentParser(
        prog=f"xvit {command}",
        usage=f"xvit {command} {usage}",
        description=description + _EXAMPLES + indented,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_json(parser: ArgumentParser) -> None:
    """Add --json, which every command has."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")


def add_device(parser: ArgumentParser) -> None:
    """Add --device, for commands that run a model."""
    parser.add_argument("--device", type=str | None, help="cpu, cuda, cuda:1, ...; chosen automatically if unset")


def add_trust_code(parser: ArgumentParser) -> None:
    """Add --trust-code, for commands that run exported models."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="allow loading a torch.export program, which can execute any code; use it only with files you trust",
    )


def add_videos(parser: ArgumentParser) -> None:
    """Add the positional arguments VIDEO_OR_FOLDER ..."""
    parser.add_argument(
        "videos", metavar="VIDEO_OR_FOLDER", nargs="+", type=str, help="video files, or folders of videos"
    )


def add_recipe(parser: ArgumentParser) -> None:
    """Add the options of a whole `RunConfig`: --config FILE, and one option per setting."""
    parser.add_argument(
        "--config", metavar="RECIPE", type=str | None, help="recipe (YAML); other options override its settings"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as a recipe, then exit")
    parser.add_class_arguments(RunConfig)


def parse_args(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parse the arguments of one command; `-` and `_` in names of options are the same.

    Raises:
        XViTError: an unknown option (with the nearest known one), a wrong type, a missing argument; in one line.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    try:
        return parser.parse_args(list(_normalize(argv, known)))
    except jsonargparse.ArgumentError as error:
        raise XViTError(_explain(str(error), known, parser.prog)) from None


def parse_recipe(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parse a command that has the options of `add_recipe`: options on the command line override the recipe file.

    Returns:
        The options; `.recipe` is the resulting `RunConfig`.

    Raises:
        XViTError: as for `parse_args`; the recipe does not exist, is not YAML, has an unknown key or a wrong value.
        SystemExit: after --print-config.
    """
    args = parse_args(parser, argv)
    if args.config is not None:
        settings = to_dict(read_recipe(args.config))
        parser.set_defaults({f"{group}.{name}": v for group, values in settings.items() for name, v in values.items()})
        args = parse_args(parser, argv)
    groups = parser.instantiate(args)
    args.recipe = RunConfig(**{field.name: groups[field.name] for field in dataclasses.fields(RunConfig)})
    if args.print_config:
        print(yaml.safe_dump(to_dict(args.recipe), sort_keys=False), end="")
        sys.exit(0)
    return args


def read_recipe(path: str) -> RunConfig:
    """Read a recipe file.

    Raises:
        XViTError: it does not exist, is not YAML, has an unknown key or a wrong value.
    """
    return from_dict(RunConfig, read_yaml(path), path)


def require(value: object, option: str, meaning: str, command: str) -> None:
    """Raise `XViTError` if an option that a command needs has no value."""
    if not value:
        raise XViTError(f"{option}: missing: {meaning}. See `xvit {command} --help`")


def _normalize(argv: list[str], known: list[str]) -> Iterator[str]:
    """The arguments with each option in its known spelling: --num-frames and --num_frames are the same."""
    spellings = {option.replace("-", "_"): option for option in known}
    for position, word in enumerate(argv):
        if word == "--":
            yield from argv[position:]
            return
        name, equals, value = word.partition("=")
        yield spellings.get(name.replace("-", "_"), name) + equals + value if word.startswith("--") else word


# Patterns of jsonargparse's messages, and what replaces them.
_REPLACEMENTS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r'Parser key "([\w.]+)": ', r"--\1: "),
    (r"<class '(\w+)'>", r"\1"),
    (r"Expected an? typing\.Literal\[(.*?)\]\. Got value: (.*)", lambda match: _explain_choice(match[1], match[2])),
    (r"Expected an? (.+?)\. Got value: (.*)", r"expected \1, got \2"),
    (r"Does not validate against any of the Union .*?\[(.+?), NoneType\].* Given value: (.*)", r"expected \1, got \2"),
]


def _explain_choice(choices: str, value: str) -> str:
    known = re.findall(r"'([^']*)'", choices)
    return f"expected one of {', '.join(known)}, got {value}.{did_you_mean(value, known)}"


def _explain(message: str, known: list[str], prog: str) -> str:
    """An error message of jsonargparse in one plain line."""
    message = " ".join(message.split())
    if message.startswith("unrecognized arguments: "):
        first = message.removeprefix("unrecognized arguments: ").split()[0]
        if not first.startswith("-"):
            return f'unexpected argument "{first}". See `{prog} --help`'
        return f"unknown option {first}.{did_you_mean(first.split('=')[0], known)} `{prog} --help` lists the options"
    if message.startswith("the following arguments are required: "):
        missing = message.removeprefix("the following arguments are required: ").split(", ")
        options = {option.lstrip("-").replace("-", "_"): option for option in known}
        return f"{', '.join(options.get(name, name.upper()) for name in missing)}: missing. See `{prog} --help`"
    for pattern, replacement in _REPLACEMENTS:
        message = re.sub(pattern, replacement, message)
    return message
