"""xvit train [--config RECIPE] --data.root DIR --output DIR [--resume] [--folds K] [--GROUP.NAME VALUE ...]

Train a model on the videos DIR/train/<class>/*.mp4 and validate it on DIR/val/<class>/*.mp4. Without these
two folders, DIR/<class>/*.mp4 is split. For annotation files, see --data.format.
Writes to the output folder: best/ and last/ (checkpoints), metrics.jsonl, tensorboard/, config.yaml.
Settings come from the recipe; options on the command line override them. A recipe is a YAML file, or the
name of one that is installed with xvit: demo, epic100, finetune, kinetics400, kinetics600, motion,
motion-streaming, ssv2. With --init.checkpoint_path and a trained model, the model and clip settings come
from it, except those that the recipe or the command line states. finetune states none.
With --folds K, the training and validation videos are divided into K parts. For each of them a model is
trained on the others (DIR/fold_1, ...), so that every video is predicted once by a model that has not seen
it: a measure with a narrower interval than that of a few validation videos. DIR/folds.json has all
predictions. It trains no model on all videos: that is the command without --folds.
Videos that cannot be read are skipped and listed in bad_videos.jsonl; the exit code is then 1. Videos that
were read with warnings, such as damaged frames, are used and listed there too.

examples:
  xvit train --config motion --data.root videos --output run
  xvit train --config motion --data.root videos --output run --resume
  xvit train --config motion --data.root videos --output slower --train.lr 0.0003
  xvit train --config motion --data.root videos --output measured --folds 5
  xvit train --config motion --train.epochs 60 --print-config > longer.yaml
  xvit train --config finetune --data.root videos --output tuned    # from image weights
  xvit train --config finetune --init.checkpoint_path run/best --data.root videos --output tuned
"""

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import CommandParser, build, given_settings, parse_args, read_recipe, require
from xvit.config import RunConfig, find_recipe, flatten, read_config, read_yaml, to_dict, unflatten
from xvit.utils import distributed
from xvit.utils.checkpoint_path import resolve_bundled
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import check_exists, check_writable_directory

if TYPE_CHECKING:
    from xvit.training import FitResult

# The settings that `xvit eval` needs to find the same videos and classes, and to measure as the recipe says.
_SPLIT_SETTINGS = ["format", "test", "multi_label", "label_files", "val_fraction", "test_fraction", "split_seed"]
_VIEW_SETTINGS = ["temporal_views", "spatial_views"]


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str | None, "folder of the run, to be created", check=check_writable_directory)
    parser.add_switch("--resume", "continue the run in the output folder")
    parser.add("--folds K", int | None, "cross-validate: number of parts, each of which is held out once", low=2)
    parser.add("--config RECIPE", str | None, "recipe (a YAML file, or a name); other options override its settings")
    parser.add_switch("--print-config", "print all settings as a recipe, then exit")
    parser.add_threads()
    parser.add_class_arguments(RunConfig)
    parser.add_data_checks()


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options, which override the recipe file; `.recipe` is the resulting `RunConfig`.

    Raises:
        XViTError: as for `parse_args`; the recipe does not exist, is not YAML, has an unknown key or a wrong value.
        SystemExit: after --print-config.
    """
    if "--resume" not in argv:  # a run that is resumed has the weights in its state
        parser.checks["init.checkpoint_path"] = lambda path: check_exists(resolve_bundled(path))
    args = parse_args(parser, argv)
    stated: dict[str, dict[str, Any]] = {}
    if args.config is not None:
        settings = to_dict(read_recipe(args.config))
        parser.set_defaults({f"{group}.{name}": v for group, values in settings.items() for name, v in values.items()})
        args = parse_args(parser, argv)
        written = flatten(read_yaml(find_recipe(args.config)))
        stated[args.config] = unflatten({key: value for key, value in flatten(settings).items() if key in written})
    stated["the command line"] = given = given_settings(parser, argv)
    for name, other, off in (("pretrained", "checkpoint_path", ""), ("checkpoint_path", "pretrained", False)):
        if given.get("init", {}).get(name) and other not in given["init"]:
            args.init[other] = off  # of the recipe's two sources of weights, the other one
    args.recipe = build(RunConfig, parser.instantiate(args))
    args.recipe = _inherit(args, stated)
    if args.print_config:
        print(yaml.safe_dump(to_dict(args.recipe), sort_keys=False), end="")
        sys.exit(0)
    require(args.output, "--output", "the folder of the run", parser.prog)
    require(args.recipe.data.root, "--data.root", "the folder of the videos", parser.prog)
    return args


def _inherit(args: Namespace, stated: dict[str, dict[str, Any]]) -> RunConfig:
    """The recipe; if it starts from a trained model, with the settings of that model where none are stated.

    A run that is resumed keeps the settings that it started with: the trained model may be gone or another one by now.
    """
    recipe: RunConfig = args.recipe
    source, started = recipe.init.checkpoint_path, Path(args.output or "", "config.yaml")
    if not source:
        return recipe
    if args.resume and started.is_file():
        from xvit.training.inherit import resume_settings

        return resume_settings(recipe, read_config(RunConfig, started), stated)
    if resolve_bundled(source).is_dir():
        from xvit.training.inherit import inherit_settings

        return inherit_settings(recipe, stated)
    return recipe


def run(args: Namespace) -> int:
    """Train and print the best validation, or the result of a cross-validation."""
    from xvit.training import fit

    if args.folds:
        return _run_folds(args)
    _check_restarts(resume=args.resume)
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
    terminal.finish(args, values, terminal.key_values(rows), *_describe_choice(args.recipe, result))
    counts = {"could not be read": result.bad_videos, "were read with warnings": result.warned_videos}
    for what, number in counts.items():
        if number and distributed.is_main():
            terminal.echo(f"xvit: {number} videos {what}; see {Path(args.output, 'bad_videos.jsonl')}", stderr=True)
    return SOME_FAILED if result.bad_videos else SUCCESS


def _run_folds(args: Namespace) -> int:
    from xvit.training import Progress, cross_validate

    with terminal.progress_display(quiet=args.json) as display:
        trainings: dict[int, terminal.TrainingProgress] = {}

        def on_progress(fold: int, event: Progress) -> None:
            if fold not in trainings:
                name = f"fold {fold} of {args.folds}"
                trainings[fold] = terminal.TrainingProgress(display, name, quiet=args.json)
            trainings[fold](event)

        options = {"folds": args.folds, "resume": args.resume, "on_progress": on_progress}
        validation = cross_validate(args.recipe, args.output, **options)
    monitor = "map" if args.recipe.data.multi_label else "top1"
    rows = [
        (str(fold.fold), f"{fold.metrics['videos']:.0f}", f"{100 * fold.metrics[monitor]:.1f} %")
        for fold in validation.folds
    ]
    table = terminal.table("fold", "videos", "mAP" if monitor == "map" else "top-1", rows=rows, numeric=[1, 2])
    failures = [VideoError(path, reason) for _, path, reason in validation.scored.failures]
    texts = (
        f"Each video predicted once, by a model that was not trained on it: {validation.result}",
        "A model that is trained on all videos has not been trained: that is the same command without --folds.",
    )
    return terminal.finish(
        args, validation.to_dict(), table, *texts, failures=failures, total=validation.result.expected
    )


def _check_restarts(*, resume: bool) -> None:
    """Check that torchrun, if it restarts processes, restarts them in a way that lets the run go on.

    Raises:
        XViTError: without --resume a restarted process would refuse the run folder.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts == "0":
        return
    if not resume:
        raise XViTError(
            f"torchrun --max-restarts {restarts} restarts the command, which continues its run only with --resume: "
            "add it, also for the first start"
        )
    num_hosts, shares_store = os.environ.get("GROUP_WORLD_SIZE", "1"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if num_hosts != "1" and shares_store == "True" and distributed.is_main():
        # torch (2.14): the host of rank 0 tells its address only once; one that joins later waits for it in vain
        terminal.echo(
            "xvit: torchrun cannot replace a machine that is lost; it can with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in "
            "its environment",
            stderr=True,
        )


def _describe_choice(recipe: RunConfig, result: "FitResult") -> tuple[str, ...]:
    """That the best checkpoint was chosen by the validation videos, and how to measure it on others."""
    words = ["xvit", "eval", "--checkpoint", str(result.best), "--data.root"]
    if result.test_videos:
        videos = f"the {result.test_videos} test videos"
        words += [recipe.data.root, "--split", "test"]
    else:
        videos = "videos that training did not read (to hold some out: a folder test, data.test or data.test_fraction)"
        words += ["OTHER_VIDEOS"]
        if recipe.data.format != "folders":
            words += ["--data.format", recipe.data.format, "--data.val", "THEIR_LABELS"]
    defaults, settings = flatten(to_dict(RunConfig())), flatten(to_dict(recipe))
    names = [f"data.{name}" for name in _SPLIT_SETTINGS if result.test_videos]
    for name in [*names, *(f"eval.{name}" for name in _VIEW_SETTINGS)]:
        if (value := settings[name]) != defaults[name]:
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return (
        *_describe_difference(recipe),
        "The checkpoint was chosen by its result on the validation videos, so that result tends to be too high. "
        f"Measure it on {videos}:",
        f"  {shlex.join(words)}",
    )


def _describe_difference(recipe: RunConfig) -> list[str]:
    """In what `xvit eval` differs from the validation, if it does."""
    from xvit.evaluation import describe_views

    views, precision = describe_views(recipe.eval.temporal_views, recipe.eval.spatial_views), recipe.train.precision
    if (views, precision) == (describe_views(1, 1), "fp32"):
        return []
    return [
        f"Training measures with one view per video in {precision}, `xvit eval` as below with {views} in fp32: on the "
        "same videos a few predictions may differ."
    ]
