"""xvit ablate [--output DIR] [--config RECIPE] [--tables NAME ...] [--seeds N] [--jobs N] [--clips-per-class N]

Train the models of the paper's ablation tables (window, mixed inputs, mix ratio, mixing layers, temporal
head, summary tokens, attention schemes) and of cheaper variants on generated videos, with several seeds each.
Print their accuracy, multiply-adds and time per clip, with the paper's accuracy for comparison.
Writes ablation.json, ablation.md and ablation.png. Run the same command to continue after a stop; with more
tables or seeds, only the missing models are trained.
tables: window, mix_inputs, mix_ratio, attention, mixing_layers, temporal_layers, summary_tokens,
token_reduction.

examples:
  xvit ablate
  xvit ablate --output small --tables window mix_inputs --seeds 1
"""

import time
from collections.abc import Callable

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args, read_recipe
from xvit.experiments.ablation.grid import TABLES
from xvit.utils.errors import check_choice
from xvit.utils.files import check_writable_directory
from xvit.utils.threads import available_cores


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="ablation"
    )
    parser.add("--config RECIPE", str | None, "recipe file; recipes/motion.yaml if unset", check=read_recipe)
    parser.add("--tables NAME", str, "tables to measure; all if unset", nargs="+", default=list(TABLES))
    parser.add("--seeds N", int, "trainings per model", default=3)
    parser.add("--jobs N", int | None, "parallel trainings, of one thread each; the number of available cores if unset")
    parser.add("--clips-per-class N", int | None, "generated videos per class")


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and check the names of the tables."""
    args = parse_args(parser, argv)
    for name in args.tables:
        check_choice("--tables", name, TABLES)
    return args


def run(args: Namespace) -> int:
    """Train and measure the models, and print the tables."""
    from xvit.config import to_dict
    from xvit.experiments.ablation.report import COLUMNS, caption, compare_rankings, table_rows, write_report
    from xvit.experiments.ablation.run import CLIPS_PER_CLASS, run_ablation
    from xvit.experiments.common import default_recipe

    recipe = read_recipe(args.config) if args.config else default_recipe()
    clips_per_class = CLIPS_PER_CLASS if args.clips_per_class is None else args.clips_per_class
    with terminal.progress_bars(quiet=args.json) as update:
        results = run_ablation(
            args.output,
            recipe=recipe,
            tables=args.tables,
            seeds=args.seeds,
            jobs=available_cores() if args.jobs is None else args.jobs,
            clips_per_class=clips_per_class,
            on_progress=update if args.json else _Progress(update),
        )
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seeds": args.seeds}
    report = write_report(args.output, args.tables, results, settings)
    numeric = range(1, len(COLUMNS))
    tables = [
        terminal.table(*COLUMNS, rows=table_rows(name, results), title=TABLES[name].title, numeric=numeric)
        for name in args.tables
    ]
    lines = [caption(results), *(f"  {line}" for line in compare_rankings(results))]
    written = f"written to {args.output}: ablation.md, ablation.json, ablation.png"
    return terminal.finish(args, report, *tables, *lines, written)


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
            terminal.echo(f"{done} of {total} trainings done, about {minutes:.0f} min left", stderr=True)
