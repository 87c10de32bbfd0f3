"""The command line: `xvit COMMAND [options]`.

`main` looks up the command. Each command is a module whose docstring is the help text, with `add_options(parser)`,
`run(args)` and, if it checks more than types and ranges, `parse(parser, argv)`. It is imported only when it is used.
`parsing` holds what the parsers share, `terminal` the output, `exit_codes` the exit codes.
"""
