"""The exit codes of all commands."""

SUCCESS = 0
SOME_FAILED = 1  # some videos could not be used, the results of the others are complete; `data check`: problems
USER_ERROR = 2  # invalid arguments or input, output that cannot be written, an unexpected error
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # SIGTERM
