"""Errors for invalid input, each with a one-line message, and helpers for their messages."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import fields
from difflib import SequenceMatcher, get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

MAX_MESSAGE = 4000  # characters
_MIN_SIMILARITY = 0.65  # of names that may be meant for each other, as difflib measures it
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}  # of modules with other names
_MIN_LETTERS = 2  # of a name that is the start or the initials of another one


class XViTError(ValueError):
    """Invalid input: a value, a file or a name. The message says what was given, what was expected and what to do.

    A message that quotes a huge value is shown without its middle.
    """

    def __str__(self) -> str:
        return cut_middle(super().__str__())


class WriteError(XViTError):
    """A file or folder that cannot be written: a full disk, a quota, a read-only or missing folder."""


class VideoError(XViTError):
    """A video that cannot be used. Can be pickled, so that worker processes can return it.

    Args:
        path: the file.
        reason: what is wrong with it, in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # pickle passes args to __init__
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return cut_middle(f"{self.path}: {self.reason}")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after everything was saved.

    Args:
        text: how to continue.
        exit_code: of the process: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, text: str = "", *, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean "x"?` for the known name nearest to `name`, or an empty text. To be appended to a message."""
    near = find_nearest(str(name), known)
    return f' Did you mean "{near}"?' if near else ""


def find_nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is probably meant; empty if none is.

    It is spelt like `name`, or begins with it (out, output), or has all of its words (views, temporal_views), or one is
    the initials of the other (learning_rate, lr).
    """
    known = list(known)
    if close := get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY):
        return close[0]
    if len(name) < _MIN_LETTERS:
        return ""
    related = [
        other
        for other in known
        if other.startswith(name)
        or _words(name) <= _words(other)
        or name == _initials(other)
        or other == _initials(name)
    ]
    return max(related, key=lambda other: SequenceMatcher(None, name, other).ratio(), default="")


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower())) or {""}


def _initials(name: str) -> str:
    words = re.findall(r"[^\W_]+", name.lower())
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def one_line(error: BaseException, *, name: bool = False, length: int = 200) -> str:
    """The message of an error in one line of at most `length` characters, after its type if `name` is set."""
    text = " ".join(str(error).split())
    if "weights_only" in text:  # torch advises to load the file without protection
        reason = text.partition("WeightsUnpickler error: ")[2].partition(" Please use ")[0]
        text = reason or "holds more than tensors and plain values"
    return (f"{type(error).__name__}: {text}" if name else text)[:length]


def cut_middle(text: str) -> str:
    """The text, or its start and its end if it is longer than any message that a person reads."""
    if len(text) <= MAX_MESSAGE:
        return text
    return f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 4 :]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: an error of Python, of torch for a GPU, or of torch for the CPU, which has no class."""
    names = {base.__name__ for base in type(error).__mro__}  # torch is not imported for it
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def import_optional(module: str, *, extra: str) -> Any:
    """A module of an optional extra of xvit.

    Raises:
        XViTError: it is not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of the machine, such as one without shared memory
            return import_module(module)
    except ImportError:
        name = module.split(".")[0]
        raise XViTError(f"{_package(name)} is not installed: {install_hint([name], extra)}") from None


def check_installed(modules: Iterable[str], *, extra: str) -> None:
    """Raise `XViTError` if modules of an optional extra of xvit are not installed, with the names of all of them."""
    if missing := [module for module in modules if not _is_installed(module)]:
        verb = "is" if len(missing) == 1 else "are"
        raise XViTError(f"{', '.join(map(_package, missing))} {verb} not installed: {install_hint(missing, extra)}")


def install_hint(modules: Iterable[str], extra: str = "") -> str:
    """The command that installs modules: xvit with an extra, or where it runs without torch only their packages.

    xvit would install torch as well (docs/guides/deploy.md).
    """
    if _is_installed("torch"):
        return f"pip install 'xvit[{extra}]'" if extra else "pip install xvit"
    return f"pip install {' '.join(map(_package, modules))}"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a finder of the environment refuses it
        return False


def _package(module: str) -> str:
    return _PACKAGES.get(module, module)


def check_choice(field: str, value: Any, choices: Iterable[str]) -> None:
    """Raise `XViTError` with the value, the choices and the nearest one, unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise XViTError(f"{field}={value!r}: expected one of {', '.join(choices)}.{did_you_mean(value, choices)}")


def check_choices(config: Any) -> None:
    """`check_choice` for each field of a dataclass whose type is a `Literal`."""
    for field in fields(config):
        if get_origin(field.type) is Literal:
            check_choice(field.name, getattr(config, field.name), get_args(field.type))


def check_range(field: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise `XViTError` unless `value` is a finite number and low <= value <= high."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) != float("inf")
    if not is_number or not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise XViTError(f"{field}={value!r:.80}: expected a number, {bounds}")
