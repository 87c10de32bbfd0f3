"""PyAV with faults: every call and attribute of its objects is counted by name, and a chosen one raises an error."""

from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import av
import pytest


class FaultyAV:
    """Wraps what `av.open` and `av.CodecContext.create` return, and all objects that come from there.

    Args:
        target: the operation that raises `error`, such as "Packet.decode"; empty for none.
        error: to be raised.
        after: how often the operation succeeds before.
        only: a part of the names of the files that have faults; all files by default.

    Attributes:
        calls: how often each operation was used.
    """

    def __init__(self, target: str = "", error: Exception | None = None, after: int = 0, only: str = "") -> None:
        self.target, self.error, self.after, self.only = target, error, after, only
        self.calls: Counter[str] = Counter()

    def count(self, operation: str) -> None:
        self.calls[operation] += 1
        if operation == self.target and self.calls[operation] > self.after:
            assert self.error is not None
            raise self.error

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace PyAV's two entry points for reading. Writing a file has no faults."""
        real_open, real_create = av.open, av.CodecContext.create

        def open_file(file: Any, mode: str = "r", **options: Any) -> Any:
            if mode == "w":
                return FaultyAV().wrap(real_open(file, mode, **options))  # takes wrapped frames
            if self.only not in str(file):
                return real_open(file, mode, **options)
            self.count("av.open")
            return self.wrap(real_open(file, mode, **options))

        def create(name: str, mode: str) -> Any:
            self.count("CodecContext.create")
            return self.wrap(real_create(name, mode))

        monkeypatch.setattr(av, "open", open_file)
        context = type("CodecContext", (), {"create": staticmethod(create)})
        monkeypatch.setattr(av, "CodecContext", context)

    def wrap(self, value: Any) -> Any:
        """The value, wrapped if it is an object of PyAV or holds some."""
        if isinstance(value, tuple | list):
            return type(value)(map(self.wrap, value))
        if type(value) is _Wrapped:
            return value
        if isinstance(value, Iterator):
            return self._wrap_iterator(value)
        if type(value).__module__.startswith("av.") and not isinstance(value, type | Enum):
            return _Wrapped(self, value)
        return value

    def _wrap_iterator(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.count("next")
            yield self.wrap(value)


def unwrap(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(unwrap, value))
    return object.__getattribute__(value, "_value") if type(value) is _Wrapped else value


class _Wrapped:
    """A stand-in for one object of PyAV; it seems to be of the same class."""

    def __init__(self, faults: FaultyAV, value: Any) -> None:
        object.__setattr__(self, "_faults", faults)
        object.__setattr__(self, "_value", value)

    def __getattribute__(self, name: str) -> Any:
        faults: FaultyAV = object.__getattribute__(self, "_faults")
        value = object.__getattribute__(self, "_value")
        if name == "__class__":
            return type(value)
        result = getattr(value, name)
        operation = f"{type(value).__name__}.{name}"
        if not callable(result) or type(result).__module__.startswith("av."):
            faults.count(operation)
            return faults.wrap(result)
        return _counted(faults, operation, result)

    def __setattr__(self, name: str, new: Any) -> None:
        value = unwrap(self)
        object.__getattribute__(self, "_faults").count(f"{type(value).__name__}.{name} =")
        setattr(value, name, unwrap(new))

    def __enter__(self) -> Any:
        unwrap(self).__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        unwrap(self).__exit__(*args)

    def __iter__(self) -> Iterator[Any]:
        return object.__getattribute__(self, "_faults")._wrap_iterator(iter(unwrap(self)))

    def __getitem__(self, index: Any) -> Any:
        return object.__getattribute__(self, "_faults").wrap(unwrap(self)[index])

    def __len__(self) -> int:
        return len(unwrap(self))

    def __bytes__(self) -> bytes:
        return bytes(unwrap(self))


def _counted(faults: FaultyAV, operation: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        faults.count(operation)
        return faults.wrap(method(*map(unwrap, args), **{name: unwrap(value) for name, value in kwargs.items()}))

    return call
