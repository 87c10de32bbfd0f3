"""Reference pages that are written from the code: a page for each command, and one for all settings."""

import argparse
import inspect
import json
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sphinx.application import Sphinx

from xvit.cli.main import COMMANDS, GROUPS
from xvit.cli.parsing import CommandParser, make_parser
from xvit.config import RunConfig

_SETTING_GROUPS = [field.name for field in fields(RunConfig)]
_NOTE = "<!-- written by docs/_ext/generated_pages.py -->"


def command_page(name: str, summary: str) -> str:
    """The page of one command in Markdown: its help text, with the options as a list."""
    module = import_module(f"xvit.cli.{_page_name(name)}")
    parser = make_parser(name, module)
    text, _, examples = parser.description.partition("\nexamples:\n")
    blocks = [_NOTE, f"# xvit {name}", f"{summary[0].upper()}{summary[1:]}."]
    usage = [textwrap.fill(line.strip(), 90, subsequent_indent="    ") for line in parser.usage.splitlines()]
    blocks += ["\n".join(["```text", *usage, "```"]), _paragraphs(text)]
    if examples:
        blocks += ["## Examples", "```sh\n" + re.sub(r"^  ", "", examples, flags=re.MULTILINE).strip() + "\n```"]
    blocks += ["## Options", _options(parser)]
    return "\n\n".join(blocks) + "\n"


def _paragraphs(text: str) -> str:
    """A help text as Markdown: what is indented or aligned stays as it is, the rest is free text.

    In a help text, a line that ends early with a full stop ends a paragraph.
    """
    parts = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        if re.search(r"^ {2,}\S|\S {3,}\S", part, flags=re.MULTILINE):
            parts.append(f"```text\n{part}\n```")
        else:
            parts += [_escape(free) for free in re.split(r"(?<=\.)\n(?<!.{96}\n)", part)]
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    """Free text for Markdown: options as code, and characters that mean something there as they are."""

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        if word.startswith("--"):
            return f"`{word}`"
        return word if word.startswith("`") else f"\\{word}"

    return re.sub(r"`[^`\n]+`|(?<![\w-])--[a-z][\w.-]*\w|[\\*_<>|\[\]`]", replace, text)


def _options(parser: CommandParser) -> str:
    """The options as a definition list. Those that are settings of a recipe are on the page of settings."""
    items, groups = [], dict[str, None]()
    for action in parser._actions:
        if action.help in (None, argparse.SUPPRESS) or action.dest in ("help", *_SETTING_GROUPS):
            continue
        if action.dest.partition(".")[0] in _SETTING_GROUPS:
            groups[action.dest.partition(".")[0]] = None
            continue
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        items.append(f"{names}\n: {_text(str(action.help))}{_default(action.default)}")
    items += [f"`--{group}.NAME`\n: [settings of {group}](../settings.md#{group})" for group in groups]
    return "\n\n".join(items)


def _text(text: str) -> str:
    """A description as one line of Markdown, without a full stop."""
    return _escape(" ".join(text.split()).rstrip("."))


def _default(value: object) -> str:
    """The default of an option, for the end of its description."""
    if value in (None, "", False, argparse.SUPPRESS):
        return ""
    return f". Default: `{value}`"


def commands_page() -> str:
    """The page of all commands, by task."""
    blocks = [
        _NOTE,
        "# Command line",
        "`xvit COMMAND --help` shows these pages in the terminal. In names of options, `-` and `_` are the same. "
        "[Output and exit codes](output.md) are the same for all commands.",
    ]
    names = []
    for title, group in GROUPS.items():
        names += [_page_name(name) for name in group]
        rows = [f"| [`xvit {name}`](cli/{_page_name(name)}.md) | {_text(text)} |" for name, text in group.items()]
        blocks += [f"## {title[0].upper()}{title[1:]}", "\n".join(["| command | |", "|---|---|", *rows])]
    blocks.append("\n".join(["```{toctree}", ":hidden:", "", *(f"cli/{name}" for name in names), "```"]))
    return "\n\n".join(blocks) + "\n"


def _page_name(name: str) -> str:
    """The name of a command's module, and of its page."""
    return name.replace(" ", "_")


def settings_page() -> str:
    """The page of all settings of a recipe in Markdown, from the dataclasses and their docstrings."""
    blocks = [
        _NOTE,
        "# Settings",
        "What a recipe file can hold, in groups, and what `--GROUP.SETTING VALUE` changes on the command line. "
        "A setting that is left out has its default.",
    ]
    for field in fields(RunConfig):
        blocks += _group(field.name, get_type_hints(RunConfig)[field.name])
    return "\n\n".join(blocks) + "\n"


def _group(name: str, cls: type) -> list[str]:
    """The settings of a dataclass, and those of the dataclasses in it."""
    summary, described = _docstring(cls)
    hints, items, nested = get_type_hints(cls), [], []
    for field in fields(cls):
        if is_dataclass(hints[field.name]):
            nested += _group(f"{name}.{field.name}", hints[field.name])
            continue
        default = field.default_factory() if field.default is MISSING else field.default
        shown = default if isinstance(default, str) and default else json.dumps(default)
        of_type = _type(hints[field.name])
        items.append(f"`{name}.{field.name}` ({of_type})\n: {_text(described[field.name])}. Default: `{shown}`")
    return [f"## {name}", summary, *items, *nested]


def _docstring(cls: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a class's docstring, and what it says about each argument."""
    text = inspect.getdoc(cls) or ""
    arguments = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^ {4}(\w+): ", arguments[1] if arguments else "", flags=re.MULTILINE)[1:]
    return text.partition("\n\n")[0], dict(zip(parts[::2], parts[1::2], strict=True))


def _type(hint: Any) -> str:
    """The type of a setting, or its choices."""
    if choices := [repr(choice).strip("'") for choice in get_args(hint) if isinstance(choice, str)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return f"`{text.replace('typing.', '')}`"


def write_pages(app: Sphinx) -> None:
    """Write the pages whose text has changed, before Sphinx looks for pages."""
    folder = Path(app.srcdir) / "reference"
    pages = {folder / "settings.md": settings_page(), folder / "commands.md": commands_page()}
    pages |= {folder / "cli" / f"{_page_name(name)}.md": command_page(name, text) for name, text in COMMANDS.items()}
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
