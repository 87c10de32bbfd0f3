"""`xvit train`: a recipe and a folder of videos in, a trained model out."""

import sys
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_json, add_recipe, make_parser, parse_recipe
from xvit.utils import distributed
from xvit.utils.errors import XViTError


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "train",
        "[--config RECIPE] --data.root DIR --output DIR [--resume] [--SECTION.NAME VALUE ...]",
        "Train on DIR/train/<class>/*.mp4 and measure on DIR/val/<class>/*.mp4 (or split DIR/<class>/*.mp4).\n"
        "Writes to the output: best/ and last/ (checkpoints), metrics.jsonl, tensorboard/, config.yaml.",
        "xvit train --config recipes/motion.yaml --data.root videos --output run\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output run --resume\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output slower --train.lr 0.0003\n"
        "xvit train --config recipes/motion.yaml --train.epochs 60 --print-config > longer.yaml",
    )
    made.add_argument("--output", metavar="DIR", type=str | None, default=None, help="folder of the run, to be made")
    made.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    add_json(made)
    add_recipe(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_recipe(parser(), argv)
    if args.output is None:
        raise XViTError("--output: missing: the folder of the run. See `xvit train --help`")
    if not args.recipe.data.root:
        raise XViTError("--data.root: missing: the folder of the videos. See `xvit train --help`")
    return args


def run(args: Namespace) -> int:
    """Train."""
    from xvit.training.engine import fit

    with terminal.progress(quiet=args.json) as shown:
        news = terminal.TrainingProgress(shown, "training", quiet=args.json)
        result = fit(args.recipe, args.output, resume=args.resume, on_progress=news)
    bad = f"{result.bad_videos} videos could not be read: {Path(args.output, 'bad_videos.jsonl')} names them"
    code = SOME_FAILED if result.bad_videos else SUCCESS
    if code and distributed.is_main():
        print(f"xvit: {bad}", file=sys.stderr)
    if args.json:
        values = asdict(result)
        terminal.print_json(values | {"best": str(result.best), "last": str(result.last)})
        return code
    rows = {
        "best epoch": f"{result.epoch} of {args.recipe.train.epochs}",
        **terminal.shares_of(result.metrics),
        "time": f"{result.seconds:.0f} s",
        "checkpoint": result.best,
    }
    out = terminal.console()
    out.print(terminal.pairs(rows))
    return code
