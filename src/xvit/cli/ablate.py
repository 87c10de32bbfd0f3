"""`xvit ablate`: repeat the paper's ablations on the built-in data set."""

import os
import sys
import time
from collections.abc import Callable

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser, parse_args, read_recipe
from xvit.experiments.ablation.grid import TABLES
from xvit.utils.errors import check_choice


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "ablate",
        "[--output DIR] [--config RECIPE] [--tables NAME ...] [--seeds N] [--jobs N] [--clips-per-class N]",
        "Train the models of the paper's ablation tables (window, mixed inputs, mix ratio, mixing layers, "
        "temporal head, summary tokens, attention schemes) and of cheaper variants on generated videos, with several "
        "seeds each. Print their accuracy, multiply-adds and time per clip, with the paper's accuracy for comparison.\n"
        "Writes ablation.json, ablation.md and ablation.png. Run the same command to continue after a stop; with more "
        "tables or seeds, only the missing models are trained.\n"
        f"tables: {', '.join(TABLES)}.",
        f"xvit ablate\nxvit ablate --output small --tables {' '.join(list(TABLES)[:2])} --seeds 1",
    )
    add = parser.add_argument
    add("--output", metavar="DIR", type=str, default="ablation", help="folder to create, or to continue in")
    add("--config", metavar="RECIPE", type=str | None, help="recipe file; recipes/motion.yaml if unset")
    add("--tables", metavar="NAME", type=str, nargs="+", default=list(TABLES), help="tables to measure; all if unset")
    add("--seeds", metavar="N", type=int, default=3, help="trainings per model")
    add("--jobs", metavar="N", type=int | None, help="parallel trainings; the number of CPU cores if unset")
    add("--clips-per-class", metavar="N", type=int | None, help="generated videos per class")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    for name in args.tables:
        check_choice("--tables", name, TABLES)
    args.recipe = read_recipe(args.config) if args.config else None
    return args


def run(args: Namespace) -> int:
    """Train and measure the models, and print the tables."""
    from xvit.config import to_dict
    from xvit.experiments.ablation.report import COLUMNS, caption, compare_rankings, table_rows, write_report
    from xvit.experiments.ablation.run import CLIPS_PER_CLASS, run_ablation
    from xvit.experiments.common import default_recipe

    recipe = args.recipe or default_recipe()
    clips_per_class = CLIPS_PER_CLASS if args.clips_per_class is None else args.clips_per_class
    with terminal.progress_bars(quiet=args.json) as update:
        results = run_ablation(
            args.output,
            recipe=recipe,
            tables=args.tables,
            seeds=args.seeds,
            jobs=(os.cpu_count() or 1) if args.jobs is None else args.jobs,
            clips_per_class=clips_per_class,
            on_progress=update if args.json else _Progress(update),
        )
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seeds": args.seeds}
    report = write_report(args.output, args.tables, results, settings)
    if args.json:
        terminal.print_json(report)
        return SUCCESS
    console = terminal.console()
    for name in args.tables:
        table = terminal.table(*COLUMNS, title=TABLES[name].title, numeric=range(1, len(COLUMNS)))
        for row in table_rows(name, results):
            table.add_row(*row)
        console.print(table)
    console.print(caption(results))
    for line in compare_rankings(results):
        console.print(f"  {line}")
    console.print(f"written to {args.output}: ablation.md, ablation.json, ablation.png")
    return SUCCESS


class _Progress:
    """Updates the progress bars, and prints a line after each training, in a log file too."""

    def __init__(self, update: Callable[[str, int, int], None]) -> None:
        self.update = update
        self.start = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        self.update(name, done, total)
        if name == "writing videos":
            self.start = time.monotonic()
        elif name == "training":
            minutes = (time.monotonic() - self.start) / done * (total - done) / 60
            print(f"{done} of {total} trainings done, about {minutes:.0f} min left", file=sys.stderr)
