"""From words to checked values: parsers with one look, errors in one line, recipes with overrides."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace

from xvit.config import RunConfig, from_dict, read_yaml, to_dict
from xvit.utils.errors import XViTError, did_you_mean

# Settings of the data that only training reads.
TRAINING_ONLY = {
    "scale_jitter",
    "horizontal_flip",
    "flip_pairs",
    "auto_augment",
    "erase",
    "max_unreadable_fraction",
    "class_balanced",
    "repeated_aug",
}
RECIPE_HELP = "recipe file (YAML); options given on the command line win over it"


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Help as wide as it reads well, whose description keeps its lines, without the Python type of a choice: the
    choices stand beside the option already.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text

    def _get_type_str(self, action: Any) -> str | None:
        text: str | None = super()._get_type_str(action)
        return None if text and text.startswith("Literal") else text


def make_parser(command: str, usage: str, description: str, examples: str) -> jsonargparse.ArgumentParser:
    """A parser for one command.

    Args:
        command: its name, such as "data motion".
        usage: what comes after the name, in one line.
        description: what it does, for its help.
        examples: lines to copy, one command each.
    """
    indented = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return jsonargparse.ArgumentParser(
        prog=f"xvit {command}",
        usage=f"xvit {command} {usage}",
        description=f"{description}\n\nexamples:\n{indented}",
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_json(parser: jsonargparse.ArgumentParser) -> None:
    """The option that all commands share."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, without decoration")


def add_device(parser: jsonargparse.ArgumentParser) -> None:
    """The option of commands that run a model."""
    parser.add_argument(
        "--device", type=str | None, default=None, help="cpu, cuda, cuda:1, ...; the best there is if unset"
    )


def add_trust(parser: jsonargparse.ArgumentParser) -> None:
    """The option of commands that run exported models."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="open a model exported as a torch.export program, which can hold any code: only if you know its maker",
    )


def check_new_folder(path: str) -> Path:
    """The folder that a command is to make.

    Raises:
        XViTError: something is there already.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise XViTError(f"{folder}: exists and is not an empty folder; choose another --output")
    return folder


def parse(parser: jsonargparse.ArgumentParser, argv: list[str]) -> Namespace:
    """Parse the words of one command; `-` and `_` in the names of options are the same.

    Raises:
        XViTError: an unknown option (with the nearest known one), a wrong type, something missing: in one line.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    try:
        return parser.parse_args(list(_spelled(argv, known)))
    except jsonargparse.ArgumentError as error:
        raise XViTError(_one_line(str(error), known, parser.prog)) from None


def add_recipe(parser: jsonargparse.ArgumentParser) -> None:
    """Options for a whole `RunConfig`: --config FILE, and each of its settings by name."""
    parser.add_argument("--config", metavar="RECIPE", type=str | None, default=None, help=RECIPE_HELP)
    parser.add_argument("--print-config", action="store_true", help="print the settings as a recipe and stop")
    parser.add_class_arguments(RunConfig)


def parse_recipe(parser: jsonargparse.ArgumentParser, argv: list[str]) -> Namespace:
    """Parse a command with `add_recipe`'s options: the recipe's settings, over them the command line's.

    Returns:
        The options, and the settings as `.recipe`, a `RunConfig`.

    Raises:
        XViTError: as `parse`; a recipe that is no file, no YAML, or holds an unknown key or a wrong type.
        SystemExit: after --print-config.
    """
    args = parse(parser, argv)
    if args.config is not None:
        recipe = to_dict(from_dict(RunConfig, read_yaml(args.config), args.config))
        parser.set_defaults({f"{part}.{name}": v for part, values in recipe.items() for name, v in values.items()})
        args = parse(parser, argv)
    names = [field.name for field in dataclasses.fields(RunConfig)]
    values = parser.instantiate(args)
    args.recipe = RunConfig(**{name: values[name] for name in names})
    if args.print_config:
        print(yaml.safe_dump(to_dict(args.recipe), sort_keys=False), end="")
        sys.exit(0)
    return args


def _spelled(argv: list[str], known: list[str]) -> Iterator[str]:
    """The words with each option spelled as it is known: --num-frames and --num_frames are one."""
    spellings = {option.replace("-", "_"): option for option in known}
    for position, word in enumerate(argv):
        if word == "--":
            yield from argv[position:]
            return
        name, equals, value = word.partition("=")
        yield spellings.get(name.replace("-", "_"), name) + equals + value if word.startswith("--") else word


_REPLACEMENTS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r'Parser key "([\w.]+)": ', r"--\1: "),
    (r"<class '(\w+)'>", r"\1"),
    (r"Expected an? typing\.Literal\[(.*?)\]\. Got value: (.*)", lambda found: _choice(found[1], found[2])),
    (r"Expected an? (.+?)\. Got value: (.*)", r"expected \1, got \2"),
    (r"Does not validate against any of the Union .*?\[(.+?), NoneType\].* Given value: (.*)", r"expected \1, got \2"),
]


def _choice(choices: str, value: str) -> str:
    known = re.findall(r"'([^']*)'", choices)
    return f"expected one of {', '.join(known)}, got {value}.{did_you_mean(value, known)}"


def _one_line(text: str, known: list[str], prog: str) -> str:
    text = " ".join(text.split())
    if text.startswith("unrecognized arguments: "):
        first = text.removeprefix("unrecognized arguments: ").split()[0]
        if not first.startswith("-"):
            return f'"{first}": not expected here. `{prog} --help` shows what is'
        return f"unknown option {first}.{did_you_mean(first.split('=')[0], known)} `{prog} --help` lists them"
    if text.startswith("the following arguments are required: "):
        missing = text.removeprefix("the following arguments are required: ").split(", ")
        options = {option.lstrip("-").replace("-", "_"): option for option in known}
        return f"{', '.join(options.get(name, name.upper()) for name in missing)}: missing. See `{prog} --help`"
    for pattern, replacement in _REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text
