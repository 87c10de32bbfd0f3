"""`xvit train`: train a model on labelled videos."""

import sys
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_json, add_recipe, make_parser, parse_recipe, require
from xvit.utils import distributed


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "train",
        "[--config RECIPE] --data.root DIR --output DIR [--resume] [--GROUP.NAME VALUE ...]",
        "Train a model on the videos DIR/train/<class>/*.mp4 and validate it on DIR/val/<class>/*.mp4. Without "
        "these two folders, DIR/<class>/*.mp4 is split. For annotation files, see --data.format.\n"
        "Writes to the output folder: best/ and last/ (checkpoints), metrics.jsonl, tensorboard/, config.yaml.\n"
        "Settings come from the recipe file; options on the command line override them. Videos that cannot be "
        "read are skipped and listed in bad_videos.jsonl; the exit code is then 1.",
        "xvit train --config recipes/motion.yaml --data.root videos --output run\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output run --resume\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output slower --train.lr 0.0003\n"
        "xvit train --config recipes/motion.yaml --train.epochs 60 --print-config > longer.yaml",
    )
    parser.add_argument("--output", metavar="DIR", type=str | None, help="folder of the run, to be created")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    add_json(parser)
    add_recipe(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_recipe(parser(), argv)
    require(args.output, "--output", "the folder of the run", "train")
    require(args.recipe.data.root, "--data.root", "the folder of the videos", "train")
    return args


def run(args: Namespace) -> int:
    """Train and print the best validation."""
    from xvit.training import fit

    with terminal.progress_display(quiet=args.json) as display:
        progress = terminal.TrainingProgress(display, "training", quiet=args.json)
        result = fit(args.recipe, args.output, resume=args.resume, on_progress=progress)
    if args.json:
        terminal.print_json(asdict(result) | {"best": str(result.best), "last": str(result.last)})
    else:
        rows = {
            "best epoch": f"{result.epoch} of {args.recipe.train.epochs}",
            **terminal.format_metrics(result.metrics),
            "time": f"{result.seconds:.0f} s",
            "checkpoint": result.best,
        }
        terminal.console().print(terminal.key_values(rows))
    if result.bad_videos and distributed.is_main():
        path = Path(args.output, "bad_videos.jsonl")
        print(f"xvit: {result.bad_videos} videos could not be read; see {path}", file=sys.stderr)
    return SOME_FAILED if result.bad_videos else SUCCESS
