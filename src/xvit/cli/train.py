"""xvit train [--config RECIPE] --data.root DIR --output DIR [--resume] [--GROUP.NAME VALUE ...]

Train a model on the videos DIR/train/<class>/*.mp4 and validate it on DIR/val/<class>/*.mp4. Without these
two folders, DIR/<class>/*.mp4 is split. For annotation files, see --data.format.
Writes to the output folder: best/ and last/ (checkpoints), metrics.jsonl, tensorboard/, config.yaml.
Settings come from the recipe file; options on the command line override them. Videos that cannot be read are
skipped and listed in bad_videos.jsonl; the exit code is then 1.

examples:
  xvit train --config recipes/motion.yaml --data.root videos --output run
  xvit train --config recipes/motion.yaml --data.root videos --output run --resume
  xvit train --config recipes/motion.yaml --data.root videos --output slower --train.lr 0.0003
  xvit train --config recipes/motion.yaml --train.epochs 60 --print-config > longer.yaml
"""

import sys
from dataclasses import asdict
from pathlib import Path

import yaml
from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import CommandParser, build, parse_args, read_recipe, require
from xvit.config import RunConfig, to_dict
from xvit.utils import distributed


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str | None, "folder of the run, to be created")
    parser.add_switch("--resume", "continue the run in the output folder")
    parser.add("--config RECIPE", str | None, "recipe (YAML); other options override its settings")
    parser.add_switch("--print-config", "print all settings as a recipe, then exit")
    parser.add_class_arguments(RunConfig)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options, which override the recipe file; `.recipe` is the resulting `RunConfig`.

    Raises:
        XViTError: as for `parse_args`; the recipe does not exist, is not YAML, has an unknown key or a wrong value.
        SystemExit: after --print-config.
    """
    args = parse_args(parser, argv)
    if args.config is not None:
        settings = to_dict(read_recipe(args.config))
        parser.set_defaults({f"{group}.{name}": v for group, values in settings.items() for name, v in values.items()})
        args = parse_args(parser, argv)
    args.recipe = build(RunConfig, parser.instantiate(args))
    if args.print_config:
        print(yaml.safe_dump(to_dict(args.recipe), sort_keys=False), end="")
        sys.exit(0)
    require(args.output, "--output", "the folder of the run", parser.prog)
    require(args.recipe.data.root, "--data.root", "the folder of the videos", parser.prog)
    return args


def run(args: Namespace) -> int:
    """Train and print the best validation."""
    from xvit.training import fit

    with terminal.progress_display(quiet=args.json) as display:
        progress = terminal.TrainingProgress(display, "training", quiet=args.json)
        result = fit(args.recipe, args.output, resume=args.resume, on_progress=progress)
    values = asdict(result) | {"best": str(result.best), "last": str(result.last)}
    rows = {
        "best epoch": f"{result.epoch} of {args.recipe.train.epochs}",
        **terminal.format_metrics(result.metrics),
        "time": f"{result.seconds:.0f} s",
        "checkpoint": result.best,
    }
    terminal.finish(args, values, terminal.key_values(rows))
    if result.bad_videos and distributed.is_main():
        path = Path(args.output, "bad_videos.jsonl")
        print(f"xvit: {result.bad_videos} videos could not be read; see {path}", file=sys.stderr)
    return SOME_FAILED if result.bad_videos else SUCCESS
