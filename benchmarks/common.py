"""What the scripts beside this share."""

import sys
from collections.abc import Callable

Step = Callable[[], None]


def tell(what: str) -> None:
    """Say on standard error what is being measured: it takes some minutes, and standard output is the result's."""
    print(what, file=sys.stderr, flush=True)
