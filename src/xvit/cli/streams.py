"""Standard output, standard error and the log of one command: a stream that fails does not end the work."""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from xvit.utils import distributed
from xvit.utils.text import printable


class OutputStream:
    """A text stream that drops what it cannot write: to a full disk, or to a terminal or a pipe that is gone.

    Args:
        stream: the stream; None if the process was started without it.
        stops_at_closed_pipe: raise `BrokenPipeError` when the reader closes the pipe, as `head` does.

    Attributes:
        error: the first error, or None. `BrokenPipeError` included.
    """

    def __init__(self, stream: TextIO | None, *, stops_at_closed_pipe: bool) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self._stops_at_closed_pipe = stops_at_closed_pipe
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        with self._errors_dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._errors_dropped():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _errors_dropped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            # What the stream holds in its buffer must go somewhere: Python writes it again at exit.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if self._stops_at_closed_pipe and isinstance(error, BrokenPipeError):
                raise


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def command_output() -> Iterator[OutputStream]:
    """The streams and the log of one command. Processes other than the first print nothing but errors.

    Yields:
        The standard output.
    """
    _open_standard_descriptors()
    is_main = distributed.is_main()
    with ExitStack() as stack:
        out = OutputStream(sys.stdout if is_main else None, stops_at_closed_pipe=True)
        for redirect, stream in (
            (redirect_stdout, out),
            (redirect_stderr, OutputStream(sys.stderr, stops_at_closed_pipe=False)),
        ):
            if hasattr(stream, "reconfigure"):  # a file name that is not valid text must not end a long run
                stream.reconfigure(errors="backslashreplace")
            stack.enter_context(redirect(stream))
        handler = logging.StreamHandler()
        handler.setFormatter(_LogFormatter())
        log = logging.getLogger("xvit")
        handlers, level = log.handlers, log.level
        log.handlers = [handler]
        log.setLevel(logging.INFO if is_main else logging.CRITICAL)
        # It warns of a home folder in which it cannot keep its caches; it keeps them in a temporary folder then.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        try:
            yield out
        finally:  # this command's stream ends with it
            log.handlers = handlers
            log.setLevel(level)


def _open_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed: otherwise the next file opened gets the number, and what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
