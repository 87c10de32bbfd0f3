"""`xvit` and `python -m xvit` run the command line."""

import os
import signal
import sys


def run() -> int:
    """Run the command line; Ctrl-C while it is being imported ends the process in a line, as it does later on."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background process ignores Ctrl-C
    if is_default:
        signal.signal(signal.SIGINT, _stop_at_once)
    from xvit.cli.main import main

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


def _stop_at_once(*_: object) -> None:
    os.write(2, b"xvit: stopped.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(run())
