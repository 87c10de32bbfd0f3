"""The names of served models. Without other libraries: the command line checks them first."""

import re
from pathlib import Path

from xvit.utils.errors import XViTError
from xvit.utils.text import printable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def split_name(text: str) -> tuple[str, str]:
    """The name of a model and where it is, from NAME=SOURCE or SOURCE; see `load_models`. Raises `XViTError`."""
    name, equals, source = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        parts = [part for part in re.split(r"[/\\]+", text.removeprefix("hf://")) if part not in ("", ".", "..")]
        if len(parts) > 1 and parts[-1] in ("best", "last"):
            parts.pop()
        name, source = re.sub(r"[^A-Za-z0-9._-]", "-", parts[-1] if parts else "model").lstrip("._-")[:64], text
    if not _NAME.fullmatch(name):
        raise XViTError(f"{printable(name)!r}: expected letters, digits and ._- in the name of a model: NAME={source}")
    return name, source
