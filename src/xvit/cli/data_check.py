"""xvit data check --data.root DIR [--data.format FORMAT --data.train FILE --data.val FILE] [--output DIR] [--full]
       xvit data check --input LIST --output DIR [--full] [--shard I/N] [--runner ray]

Find what is wrong with a data set before training does: videos that are missing, corrupt, cut short, too
short or in two splits; classes that are empty, or that one split lacks. Names copies of a video in two
splits, in two classes or in one class, and what folders hold besides videos. By default, the packets of each
file are counted, and its first and last frames decoded; --full decodes all.
Writes to the output folder, if given: report.html, report.json, and annotations of the usable videos
(train.txt, val.txt, test.txt, labels.json, to be read with --data.format list).
Prints the problems; if there are any, the exit code is 1.

For many videos without labels, --input takes a list, and --output a folder for Parquet files with a row per
video: path, status, error, frames, frame rate, duration, size, codec.

examples:
  xvit data check --data.root videos --output report
  xvit data check --data.root k400 --data.format kinetics --data.train train.csv --data.val val.csv --full
  xvit data check --data.root videos --data.format list --data.val report/val.txt --data.label_files report/labels.json
  xvit data check --input videos.txt --output checked --data.num-workers 8
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import RenderableType

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.jobs import OPTIONS, add_job, check_job, run_job
from xvit.cli.parsing import CommandParser, parse_args, refuse_others, require, select
from xvit.utils.errors import WriteError
from xvit.utils.files import atomic_directory, check_new_directory

if TYPE_CHECKING:
    from xvit.data.tools.check import CheckReport

_JOB_SETTINGS = ("data.num_workers", "data.decode_timeout", "data.allow_remote", "num_frames", "full", "json", *OPTIONS)
_MAX_PRINTED = 20  # problems in the terminal; report.json has all of them


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str | None, "folder for the report, to be created")
    parser.add_switch("--full", "decode all frames")
    parser.add("--num-frames T", int, "frames per clip; a video with fewer is too short", default=8)
    parser.add_data(skip=["max_missing_fraction"])
    add_job(parser, output=False)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options: a data set, or a large job."""
    args = parse_args(parser, argv)
    check_job(parser, args)
    if args.input is None:
        if args.output is not None:
            check_new_directory(args.output)
        require(args.data.root, "--data.root or --input", "the folder of the videos, or a list of them", parser.prog)
    else:
        refuse_others(parser, args, _JOB_SETTINGS, "cannot be combined with --input, which lists videos without labels")
    return parser.instantiate(args)


def run(args: Namespace) -> int:
    """Check the data set and print the problems."""
    if args.input is not None:
        from xvit.batch import CheckTask

        settings = {"num_workers": args.data.num_workers, "decode_timeout": args.data.decode_timeout}
        return run_job(args, CheckTask(**settings, **select(args, "num_frames", "full")))
    from xvit.cli.data_report import describe, summary
    from xvit.data.annotations import load_splits
    from xvit.data.tools.check import check_dataset

    output = check_new_directory(args.output) if args.output else None
    data = load_splits(replace(args.data, max_missing_fraction=1.0), strict=False)
    with terminal.progress_bar("checking", quiet=args.json) as update:
        options = {"num_workers": args.data.num_workers, "decode_timeout": args.data.decode_timeout}
        report = check_dataset(data, num_frames=args.num_frames, full=args.full, **options, on_progress=update)
    values = summary(report)
    write_error: WriteError | None = None
    if output:
        try:
            _write(report, values, args, output)
        except WriteError as error:  # a result of hours is printed first
            write_error, output = error, None
    max_printed = len(report.problems) if write_error else _MAX_PRINTED
    terminal.finish(args, values, terminal.key_values(describe(report)), *_details(report, output, max_printed))
    if write_error:
        raise write_error
    return SOME_FAILED if report.problems else SUCCESS


def _write(report: "CheckReport", values: dict[str, Any], args: Namespace, output: Path) -> None:
    from xvit.cli.data_report import write_page
    from xvit.data.tools.check import write_usable_annotations

    with atomic_directory(output) as directory:
        (directory / "pictures").mkdir()
        settings = write_usable_annotations(report, args.data, directory)
        (directory / "report.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        write_page(report, args.data, directory, full=args.full, settings=settings)


def _details(report: "CheckReport", output: Path | None, max_printed: int) -> Iterator[RenderableType]:
    """The first problems and unusual frame rates, and where all of them are written."""
    if report.problems:
        rows = [(problem.path or problem.id, problem.kind, problem.reason) for problem in report.problems]
        yield terminal.table("video", "problem", "reason", rows=rows[:max_printed])
        if len(rows) > max_printed:
            where = f"see {output / 'report.json'}" if output else "give --output DIR to write all of them"
            yield f"... and {len(rows) - max_printed} more: {where}"
    for file in report.unusual_fps[:_MAX_PRINTED]:
        yield f"{file.path}: {file.fps:g} frames per second: unusual in this data set, but usable"
    if output:
        yield f"written to {output}"
