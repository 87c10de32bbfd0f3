"""The command line: `xvit COMMAND [options]`.

`main` looks up the command. Each command is a module with `parser()`, `parse(argv)` and `run(args)`, and is imported only
when it is used. `parsing` holds what their parsers share, `terminal` what they print with, `exit_codes` their exit codes.
"""
