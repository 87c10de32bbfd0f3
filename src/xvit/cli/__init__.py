"""The command line: `xvit COMMAND [options]`.

`main` looks up the command. Each command is a module with `parser()`, `parse(argv)` and `run(args)`, imported only when
it is used. `parsing` holds what the parsers share, `terminal` the output, `exit_codes` the exit codes.
"""
