"""Shared by the benchmark scripts."""

import sys
from collections.abc import Callable

Step = Callable[[], None]


def log_progress(message: str) -> None:
    """Print what is being measured to standard error; standard output is for the results."""
    print(message, file=sys.stderr, flush=True)
