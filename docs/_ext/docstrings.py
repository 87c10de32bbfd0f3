"""Docstrings of xvit are plain text with `code`: escape what reStructuredText would take for markup."""

import re
from typing import Any

from sphinx.application import Sphinx

_CODE_OR_MARK = re.compile(r"(`[^`]*`)(\w?)|([*|])")


def escape(line: str) -> str:
    """A line in which * and | are themselves, and code may be followed by letters: `Batch`es."""

    def replace(match: re.Match[str]) -> str:
        code, letter, mark = match.groups()
        if mark:
            return f"\\{mark}"
        return f"{code}\\ {letter}" if letter else str(code)

    return _CODE_OR_MARK.sub(replace, line)


def escape_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """For xvit's own objects only."""
    if name.startswith("xvit"):
        lines[:] = [escape(line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", escape_docstring, priority=100)  # before napoleon, which writes markup
    return {"parallel_read_safe": True, "parallel_write_safe": True}
