"""`xvit data check`: find missing, corrupt or short videos in a data set."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import TRAINING_ONLY, add_json, make_parser, parse_args, require
from xvit.config import DataConfig
from xvit.utils.files import atomic_directory, check_new_directory

if TYPE_CHECKING:
    from xvit.data.tools.check import CheckReport

_MAX_PRINTED = 20  # problems in the terminal; report.json has all of them


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "data check",
        "--data.root DIR [--data.format FORMAT --data.train FILE --data.val FILE] [--output DIR] [--full]",
        "Find the videos of a data set that are missing, corrupt, cut short or too short, before training does. "
        "By default, the packets of each file are counted, and its first and last frames decoded; --full decodes "
        "all.\n"
        "Writes to the output folder, if given: report.html, report.json, and annotations of the usable videos "
        "(train.txt, val.txt, labels.json, to be read with --data.format list).\n"
        "Prints the problems; if there are any, the exit code is 1.",
        "xvit data check --data.root videos --output report\n"
        "xvit data check --data.root k400 --data.format kinetics --data.train train.csv --data.val val.csv --full\n"
        "xvit data check --data.root videos --data.format list --data.val report/val.txt "
        "--data.label_files report/labels.json",
    )
    add = parser.add_argument
    add("--output", metavar="DIR", type=str | None, help="folder for the report, to be created")
    add("--full", action="store_true", help="decode all frames")
    add("--num-frames", metavar="T", type=int, default=8, help="frames per clip; a video with fewer is too short")
    add_json(parser)
    parser.add_class_arguments(DataConfig, "data", skip={*TRAINING_ONLY, "max_missing_fraction"})
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    options = parser()
    args = options.instantiate(parse_args(options, argv))
    require(args.data.root, "--data.root", "the folder of the videos", "data check")
    return args


def run(args: Namespace) -> int:
    """Check the data set and print the problems."""
    from xvit.cli.data_report import summary
    from xvit.data.annotations import load_splits
    from xvit.data.tools.check import check_dataset

    output = check_new_directory(args.output) if args.output else None
    data = load_splits(replace(args.data, max_missing_fraction=1.0))
    with terminal.progress_bar("checking", quiet=args.json) as update:
        report = check_dataset(
            data, num_frames=args.num_frames, full=args.full, num_workers=args.data.num_workers, on_progress=update
        )
    if output:
        _write_report(output, report, args)
    if args.json:
        terminal.print_json(summary(report))
    else:
        _print_report(report, output)
    return SOME_FAILED if report.problems else SUCCESS


def _print_report(report: "CheckReport", output: Path | None) -> None:
    from xvit.cli.data_report import summary

    facts = summary(report)
    console = terminal.console()
    console.print(
        terminal.key_values(
            {
                "samples": f"{facts['samples']} in {facts['files']} files, {facts['hours']:.2f} hours",
                "usable": f"{facts['usable']['train']} for training, {facts['usable']['val']} for validation",
                "problems": ", ".join(f"{count} {kind}" for kind, count in report.problem_counts.items()) or "none",
                "unusual frame rates": str(len(report.unusual_fps)) if report.unusual_fps else None,
            }
        )
    )
    if report.problems:
        table = terminal.table("video", "problem", "reason")
        for problem in report.problems[:_MAX_PRINTED]:
            table.add_row(problem.path or problem.id, problem.kind, problem.reason)
        console.print(table)
        if len(report.problems) > _MAX_PRINTED:
            where = f"see {output / 'report.json'}" if output else "give --output DIR to write all of them"
            console.print(f"... and {len(report.problems) - _MAX_PRINTED} more: {where}")
    for file in report.unusual_fps[:_MAX_PRINTED]:
        console.print(f"{file.path}: {file.fps:g} frames per second: unusual in this data set, but usable")
    if output:
        console.print(f"written to {output}")


def _write_report(output: Path, report: "CheckReport", args: Namespace) -> None:
    from xvit.cli.data_report import summary, write_page
    from xvit.data.tools.check import write_usable_annotations

    with atomic_directory(output) as directory:
        (directory / "pictures").mkdir()
        settings = write_usable_annotations(report, args.data, directory)
        (directory / "report.json").write_text(json.dumps(summary(report), indent=2) + "\n", encoding="utf-8")
        write_page(report, args.data, directory, full=args.full, settings=settings)
