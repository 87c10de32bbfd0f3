"""Parsers of all commands: options in one line each, and errors in one line."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar, get_args

import jsonargparse
from jsonargparse import ArgumentParser, Namespace

from xvit.cli.option_errors import explain
from xvit.config import DataConfig, InitConfig, ModelConfig, RunConfig, find_recipe, read_config
from xvit.config.values import ValueTypeError, convert
from xvit.data.shards import check_video, check_video_exists
from xvit.utils import threads
from xvit.utils.addresses import SCHEMES, allow_remote, check_video_root, split_allowed
from xvit.utils.errors import XViTError, check_range
from xvit.utils.files import check_files

_MODEL_SOURCES = "a folder, hf://owner/name, or motion, which comes with xvit (a folder of that name comes first)"
TRAINED_MODEL = f"a trained model: {_MODEL_SOURCES}"  # help texts
TRAINED_OR_EXPORTED_MODEL = f"a trained or an exported model: {_MODEL_SOURCES}"
_ANNOTATIONS = ("data.train", "data.val", "data.test")
Config = TypeVar("Config", ModelConfig, InitConfig, RunConfig)


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Prints the description as it is. Shows no type for options whose choices are shown already."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text

    def _get_type_str(self, action: argparse.Action) -> str | None:
        text: str | None = super()._get_type_str(action)
        return None if text and text.startswith("Literal") else text


class CommandParser(ArgumentParser):
    """The parser of one command. jsonargparse creates parsers of nested settings with this class, too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.checks: dict[str, Callable[..., object]] = {}

    def add(
        self,
        name: str,
        type: Any,
        help: str,
        *,
        low: float | None = None,
        high: float = float("inf"),
        check: Callable[..., object] | None = None,
        **settings: Any,
    ) -> None:
        """Add an option or a positional argument.

        Args:
            name: such as "--top-k K" or "source SOURCE": the name, and what stands for the value in the help text.
            type: of the value; it may be None too, if so declared.
            help: the help text.
            low: smallest allowed number; any if None.
            high: largest allowed number, together with `low`.
            check: raises `XViTError` for a path that cannot be used; called with each value that is given, before the
                imports that take seconds.
            settings: of `add_argument`, such as default, required, nargs.
        """
        name, _, metavar = name.partition(" ")
        if metavar:
            settings["metavar"] = metavar
        action = self.add_argument(name, type=type, help=help, **settings)
        if low is not None:
            self.ranges[action.dest] = (low, high)
        if check is not None:
            self.checks[action.dest] = check

    def add_switch(self, name: str, help: str) -> None:
        """Add an option without a value, which is off by default."""
        self.add_argument(name, action="store_true", help=help)

    def add_videos(self, *, required: bool = True, remote: bool = False) -> None:
        """Add the positional arguments VIDEO_OR_FOLDER ..., and --allow-remote if they may be addresses."""
        text = "video files, folders of videos, shards (.tar), or lists of them (.txt, .csv, .tsv)"
        check = check_video if remote else check_video_exists
        self.add("videos VIDEO_OR_FOLDER", str, text, nargs="+" if required else "*", check=check)
        if remote:
            text = f"addresses that may be opened, separated by commas: {', '.join(SCHEMES)}, s3://bucket, ..."
            self.add("--allow-remote SCHEMES", str, text, default="")

    def add_device(self) -> None:
        """Add --device, for commands that run a model."""
        self.add("--device", str | None, "cpu, cuda, cuda:1, ...; chosen automatically if unset")
        self.add_threads()

    def add_threads(self) -> None:
        """Add --threads, for commands that run a model; `parse_command` applies it."""
        text = "threads on a CPU; if unset, as OMP_NUM_THREADS says, else all available cores, and 1 for small models"
        self.add("--threads N", int | None, text, low=1)

    def add_trust_code(self) -> None:
        """Add --trust-code, for commands that run exported models."""
        text = "allow loading a torch.export program, which can execute any code; use it only with files you trust"
        self.add_switch("--trust-code", text)

    def add_data(self, *, skip: Iterable[str] = ()) -> None:
        """Add the settings of a data set as --data.NAME, except those that only training reads and those of `skip`."""
        self.add_class_arguments(DataConfig, "data", skip={"max_unreadable_fraction", "class_balanced", *skip})
        self.add_data_checks()

    def add_data_checks(self) -> None:
        """Check the paths among the settings of a data set."""
        self.checks["data.root"] = check_video_root
        self.checks |= dict.fromkeys((*_ANNOTATIONS, "data.label_files"), check_files)

    def check_ranges(self, args: Namespace) -> None:
        """Raise `XViTError` for a number out of its range."""
        for name, (low, high) in self.ranges.items():
            if args[name] is not None:
                check_range(name, args[name], low, high)

    def check_paths(self, args: Namespace) -> None:
        """Raise `XViTError` for a path that cannot be used."""
        for name, check in self.checks.items():
            if name in _ANNOTATIONS and _name_shards(args, args[name]):
                continue
            values = args[name] if isinstance(args[name], list | tuple) else [args[name]]
            for value in values:
                if value:
                    check(value)


def _name_shards(args: Namespace, value: str) -> bool:
    """Whether annotations are shards: patterns of names, relative to data.root."""
    return args.get("data.format") == "webdataset" or value.endswith(".tar")


def make_parser(name: str, module: ModuleType) -> CommandParser:
    """The parser of one command.

    Args:
        name: the command, such as "data motion".
        module: its module. The docstring is the help text: the usage, then the description and examples.
            `add_options(parser)` adds the options.
    """
    usage, _, description = (module.__doc__ or "").strip().partition("\n\n")
    parser = CommandParser(
        prog=f"xvit {name}",
        usage=usage,
        description=description,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    module.add_options(parser)
    parser.add_switch("--json", "print the result as JSON, and nothing else")
    return parser


def parse_command(name: str, module: ModuleType, argv: list[str]) -> Namespace:
    """Parse the arguments of one command, and set the number of threads of this process.

    Args:
        name: the command, such as "data motion".
        module: its module, as for `make_parser`; `parse(parser, argv)`, if there is one, replaces `parse_args`.
        argv: the arguments after the name.

    Raises:
        XViTError: an unknown option (with the nearest known one), a wrong value, a missing argument; in one line.
    """
    args: Namespace = getattr(module, "parse", parse_args)(make_parser(name, module), argv)
    threads.configure(args.get("threads"))
    return args


def parse_args(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse and check the options; `-` and `_` in their names are the same. Raises `XViTError`."""
    words = list(_normalize(argv, parser._actions))
    try:
        args = parser.parse_args(words)
    except jsonargparse.ArgumentError as error:
        raise XViTError(explain(str(error), words, parser._actions, parser.prog)) from None
    parser.check_ranges(args)
    for name in ("allow_remote", "data.allow_remote"):
        if name in args:
            allow_remote(*split_allowed(args[name]))
    parser.check_paths(args)
    return args


def parse_data_args(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse a command with the options of `add_data`, of which --data.root is required."""
    args = parser.instantiate(parse_args(parser, argv))
    require(args.data.root, "--data.root", "the folder of the videos", parser.prog)
    return args


def given_settings(parser: CommandParser, argv: list[str]) -> dict[str, Any]:
    """The settings that are on the command line, without the defaults: {"model": {"num_frames": 16}}."""
    given: dict[str, Any] = parser.parse_args(list(_normalize(argv, parser._actions)), defaults=False).as_dict()
    return given


def read_recipe(name: str) -> RunConfig:
    """Read a recipe file, or the packaged recipe of that name. Raises as `find_recipe` and `read_config` do."""
    return read_config(RunConfig, find_recipe(name))


def build(config_class: type[Config], args: Namespace) -> Config:
    """Create a config from the options of the same names; fields without an option have their defaults."""
    return config_class(**{field.name: args[field.name] for field in fields(config_class) if field.name in args})


def refuse_others(parser: CommandParser, args: Namespace, allowed: Iterable[str], reason: str) -> None:
    """Raise `XViTError` if an option is given that is not one of the allowed ones."""
    defaults = parser.get_defaults()
    for name, value in args.items():
        if name not in allowed and value != defaults[name]:
            raise XViTError(f"--{name.replace('_', '-')}: {reason}")


def select(args: Namespace, *names: str) -> dict[str, Any]:
    """Some of the options, to be passed to a function whose arguments have the same names."""
    return {name: args[name] for name in names}


def require(value: object, option: str, meaning: str, prog: str) -> None:
    """Raise `XViTError` if an option that a command such as "xvit train" needs has no value."""
    if not value:
        raise XViTError(f"{option}: missing: {meaning}. See `{prog} --help`")


def _normalize(argv: list[str], actions: Sequence[argparse.Action]) -> Iterator[str]:
    """The arguments as the parser takes them.

    Each option gets its known spelling: --num-frames and --num_frames are the same. A whole number may be written as
    1e2, as in a recipe.
    """
    spellings = {option.replace("-", "_"): (option, action) for action in actions for option in action.option_strings}
    whole = False  # whether the next word is a whole number
    for position, word in enumerate(argv):
        if word == "--":
            yield from argv[position:]
            return
        if not word.startswith("--"):
            yield _plain_integer(word) if whole else word
            continue
        name, equals, value = word.partition("=")
        option, action = spellings.get(name.replace("-", "_"), (name, None))
        kind = getattr(action, "_typehint", None)
        whole = int in (kind, *get_args(kind))
        yield option + equals + (_plain_integer(value) if whole else value)


def _plain_integer(text: str) -> str:
    try:
        return str(convert(int, text))
    except ValueTypeError:
        return text
