"""Reference pages that are written from the code: a page for each command, and one for all settings."""

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sphinx.application import Sphinx

from xvit.cli.main import GROUPS
from xvit.cli.parsing import CommandParser, make_parser
from xvit.config import RunConfig

_NOTE = "<!-- written by docs/_ext/generated_pages.py -->"


def command_page(name: str, summary: str) -> str:
    """The page of one command in Markdown: its help text, with the options as a table."""
    module = import_module(f"xvit.cli.{name.replace(' ', '_')}")
    parser = make_parser(name, module)
    text, _, examples = parser.description.partition("\nexamples:\n")
    blocks = [_NOTE, f"# xvit {name}", f"{summary[0].upper()}{summary[1:]}."]
    blocks += ["```text\n" + re.sub(r"^\s*", "", parser.usage, flags=re.MULTILINE).strip() + "\n```", _paragraphs(text)]
    if examples:
        blocks += ["## Examples", "```sh\n" + re.sub(r"^  ", "", examples, flags=re.MULTILINE).strip() + "\n```"]
    blocks += ["## Options", *_options(parser)]
    return "\n\n".join(blocks) + "\n"


def _paragraphs(text: str) -> str:
    """A help text as Markdown: what is indented or aligned stays as it is, the rest is free text."""
    parts = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        fixed = re.search(r"^ {2,}\S|\S {3,}\S", part, flags=re.MULTILINE)
        parts.append(f"```text\n{part}\n```" if fixed else _escape(part))
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    """Free text for Markdown: options as code, and characters that mean something there as they are."""

    def replace(match: re.Match[str]) -> str:
        return f"`{match[0]}`" if match[0].startswith("-") else f"\\{match[0]}"

    return re.sub(r"(?<![\w-])--[a-z][\w.-]*\w|[\\*_<>|\[\]`]", replace, text)


def _options(parser: CommandParser) -> list[str]:
    rows = []
    for action in parser._actions:
        if action.help in (None, "==SUPPRESS==") or action.dest in ("help",):
            continue
        names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
        rows.append(f"| {names} | {_cell(str(action.help))} | {_default(action.default)} |")
    return ["| option | meaning | default |\n|---|---|---|\n" + "\n".join(rows)]


def _cell(text: str) -> str:
    return _escape(re.sub(r"\s+", " ", text))


def _default(value: object) -> str:
    if value in (None, "", "==SUPPRESS==") or value is MISSING:
        return ""
    if isinstance(value, bool):
        return "on" if value else ""
    return f"`{value}`"


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


def _group(name: str, kind: Any) -> list[str]:
    cls = next(item for item in (kind, *get_args(kind)) if is_dataclass(item))
    summary, described = _docstring(cls)
    hints, rows, nested = get_type_hints(cls), [], []
    for field in fields(cls):
        if is_dataclass(hints[field.name]):
            nested += _group(f"{name}.{field.name}", hints[field.name])
            continue
        rows.append(
            f"| `{name}.{field.name}` | {_type(hints[field.name])} | {_field_default(field)} "
            f"| {_cell(described.get(field.name, ''))} |"
        )
    table = "| setting | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
    return [f"## {name}", summary, table, *nested]


def _docstring(cls: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a class's docstring, and what it says about each argument."""
    text = inspect.getdoc(cls) or ""
    arguments = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"^ {4}(\w+): ", arguments[1] if arguments else "", flags=re.MULTILINE)[1:]
    return text.partition("\n\n")[0], dict(zip(parts[::2], parts[1::2], strict=True))


def _type(hint: Any) -> str:
    if choices := [repr(choice).strip("'") for choice in get_args(hint) if isinstance(choice, str)]:
        return ", ".join(f"`{choice}`" for choice in choices)
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return f"`{text.replace('typing.', '')}`".replace("|", "\\|")


def _field_default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`".replace("|", "\\|")
    return f"`{field.default_factory()!r}`" if field.default_factory is not MISSING else "required"


def write_pages(app: Sphinx) -> None:
    """Write the pages whose text has changed, before Sphinx looks for pages."""
    folder = Path(app.srcdir) / "reference"
    pages = {folder / "settings.md": settings_page()}
    for group in GROUPS.values():
        pages |= {folder / "cli" / f"{name.replace(' ', '_')}.md": command_page(name, text) for name, text in group.items()}
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
