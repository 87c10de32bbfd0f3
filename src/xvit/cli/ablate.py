"""xvit ablate [--output DIR] [--tables NAME ...] [--seeds N] [--jobs N] [--clips N] [--epochs N]

Repeat the paper's ablations in small: an image model learns single images, and video models of each kind
(window, mixed inputs, mix ratio, mixing layers, temporal head, summary tokens, other attention schemes) are
fine-tuned from it on made clips of two moving shapes. Each model gets the best of three or more learning
rates on validation clips, and then a training for each further seed. Prints accuracies and their differences
with 95 % intervals, beside the paper's. Writes ablation.json, ablation.md and ablation.png.
On two cores it takes some two and a half hours. Run the same command to continue after a stop; with more
tables or seeds, only the missing models are trained.
tables: mixing, window, mixing_layers, mix_inputs, mix_ratio, summary_tokens, attention; and token_reduction,
which is not in the paper.

examples:
  xvit ablate
  xvit ablate --output small --tables mixing --seeds 1 --clips 3072
  xvit ablate --output longer --tables mixing --epochs 3
"""

import time
from collections.abc import Callable

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args
from xvit.experiments.ablation.grid import PAPER_TABLES, TABLES
from xvit.utils.errors import check_choice
from xvit.utils.files import check_writable_directory
from xvit.utils.threads import available_cores


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="ablation"
    )
    parser.add(
        "--tables NAME", str, "tables to measure; those of the paper if unset", nargs="+", default=list(PAPER_TABLES)
    )
    parser.add("--seeds N", int, "trainings per model", default=3)
    parser.add("--jobs N", int | None, "parallel trainings, of one thread each; the number of available cores if unset")
    parser.add("--clips N", int, "training clips; the other splits are in proportion", default=18_432, low=384)
    parser.add("--epochs N", int, "how often a training sees each clip; its time grows with it", default=1, low=1)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and check the names of the tables."""
    args = parse_args(parser, argv)
    for name in args.tables:
        check_choice("--tables", name, TABLES)
    return args


def run(args: Namespace) -> int:
    """Train and measure the models, and print the tables."""
    from xvit.experiments.ablation import report
    from xvit.experiments.ablation.run import run_ablation

    with terminal.progress_bars(quiet=args.json) as update:
        results = run_ablation(
            args.output,
            tables=args.tables,
            seeds=args.seeds,
            jobs=available_cores() if args.jobs is None else args.jobs,
            clips=args.clips,
            epochs=args.epochs,
            on_progress=update if args.json else _Progress(update),
        )
    settings = {"clips": args.clips, "epochs": args.epochs, "seeds": args.seeds}
    values = report.write_report(args.output, args.tables, results, settings)
    numeric = range(1, len(report.COLUMNS))
    tables = [
        terminal.table(
            *report.COLUMNS, rows=report.table_rows(name, results), title=TABLES[name].title, numeric=numeric
        )
        for name in args.tables
    ]
    found = report.findings(results)
    if found:
        tables.append(
            terminal.table(*report.FINDING_COLUMNS, rows=report.finding_rows(found), title=report.summary(found))
        )
    written = f"written to {args.output}: ablation.md, ablation.json" + (", ablation.png" if found else "")
    return terminal.finish(args, values, *tables, report.caption(results), written)


class _Progress:
    """Updates the progress bars, and prints a line after each training, in a log file too."""

    def __init__(self, update: Callable[[str, int, int], None]) -> None:
        self.update = update
        self.started: dict[str, tuple[float, int]] = {}  # when a step started, and how many of its items were done

    def __call__(self, name: str, done: int, total: int) -> None:
        self.update(name, done, total)
        if name == "drawing clips":
            return
        start, before = self.started.setdefault(name, (time.monotonic(), done))
        if done > before:
            minutes = (time.monotonic() - start) / (done - before) * (total - done) / 60
            terminal.echo(f"{name}: {done} of {total} done, about {minutes:.0f} min left", stderr=True)
