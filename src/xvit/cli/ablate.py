"""`xvit ablate`: the paper's ablations, measured on the built-in data set."""

import os
import sys
import time

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import RunConfig, from_dict, read_yaml
from xvit.experiments.ablation.grid import TABLES
from xvit.utils.errors import check_choice


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "ablate",
        "[--output DIR] [--config RECIPE] [--tables NAME ...] [--seeds N] [--jobs N] [--clips-per-class N]",
        "Train the rows of the paper's ablation tables (window, what is mixed, how much, in which layers, temporal\n"
        "head, summary tokens, attention schemes) and of fewer operations on made videos over several seeds; print\n"
        "them beside the paper's figures, with multiply-adds and the time of a clip. Writes ablation.json,\n"
        "ablation.md and ablation.png.\n"
        "Run again, it goes on where it was stopped; with more tables or seeds only those are trained.\n"
        f"tables: {', '.join(TABLES)}.",
        "xvit ablate\nxvit ablate --output small --tables window mixed --seeds 1",
    )
    made.add_argument("--output", metavar="DIR", type=str, default="ablation", help="folder to make, or to go on in")
    made.add_argument(
        "--config", metavar="RECIPE", type=str | None, default=None, help="recipe file; recipes/motion.yaml if unset"
    )
    made.add_argument(
        "--tables", metavar="NAME", type=str, nargs="+", default=list(TABLES), help="which tables; all if unset"
    )
    made.add_argument("--seeds", metavar="N", type=int, default=3, help="trainings of each model")
    made.add_argument(
        "--jobs", metavar="N", type=int | None, default=None, help="trainings at a time; one a core if unset"
    )
    made.add_argument("--clips-per-class", metavar="N", type=int | None, default=None, help="videos a class")
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    for name in args.tables:
        check_choice("--tables", name, TABLES)
    args.recipe = from_dict(RunConfig, read_yaml(args.config), args.config) if args.config else None
    return args


def run(args: Namespace) -> int:
    """Run the ablation."""
    from xvit.config import to_dict
    from xvit.experiments.ablation.report import HEADS, cells, note, orders, write_report
    from xvit.experiments.ablation.run import CLIPS_PER_CLASS, run_ablation
    from xvit.experiments.demo.run import default_recipe

    recipe = args.recipe or default_recipe()
    clips_per_class = CLIPS_PER_CLASS if args.clips_per_class is None else args.clips_per_class
    jobs = (os.cpu_count() or 1) if args.jobs is None else args.jobs
    with terminal.counters(quiet=args.json) as bars:
        began = time.monotonic()

        def advance(name: str, done: int, total: int) -> None:
            nonlocal began
            bars(name, done, total)
            if name == "writing videos":
                began = time.monotonic()
            elif name == "training" and not args.json:  # of a minute or two each: a line for each, in a log too
                left = (time.monotonic() - began) / done * (total - done)
                print(f"{done} of {total} trainings done, about {left / 60:.0f} min left", file=sys.stderr)

        measured = run_ablation(
            args.output,
            recipe=recipe,
            tables=args.tables,
            seeds=args.seeds,
            jobs=jobs,
            clips_per_class=clips_per_class,
            on_progress=advance,
        )
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seeds": args.seeds}
    report = write_report(args.output, args.tables, measured, settings)
    if args.json:
        terminal.print_json(report)
        return SUCCESS
    out = terminal.console()
    for name in args.tables:
        shown = terminal.table(*HEADS, title=TABLES[name].title, numbers=(1, 2, 3, 4))
        for line in cells(name, measured):
            shown.add_row(*line)
        out.print(shown)
    out.print(note(measured))
    for told in orders(measured):
        out.print(f"  {told}")
    out.print(f"written to {args.output}: ablation.md, ablation.json, ablation.png")
    return SUCCESS
