"""`xvit` and `python -m xvit` run the command line."""

import os
import signal
import sys


def run() -> int:
    """Run the command line; Ctrl-C while it is being imported ends the process in a line, as it does later on."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not in a background process, which ignores Ctrl-C
        signal.signal(signal.SIGINT, _stop_at_once)
    from xvit.cli.main import main

    signal.signal(signal.SIGINT, handler)
    return main()


def _stop_at_once(*_: object) -> None:
    os.write(2, b"xvit: stopped.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(run())
