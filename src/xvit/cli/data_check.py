"""`xvit data check`: is each video of a data set there, whole, long enough."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import TRAINING_ONLY, add_json, check_new_folder, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import DataConfig
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.data.tools.check import Report

_NAMED = 20  # problems on the terminal; the report has all


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "data check",
        "--data.root DIR [--data.format FORMAT --data.train FILE --data.val FILE] [--output DIR] [--full]",
        "See whether each video of a data set is there, whole, and long enough, before a training finds out. By\n"
        "default the packets of each file are counted and its first and last frames decoded; --full decodes all.\n"
        "Writes to the output, if given: report.html with pictures, report.json, and annotations of the usable videos\n"
        "(train.txt, val.txt, labels.json, for --data.format list). Problems are named, the exit code is then 1.",
        "xvit data check --data.root videos --output report\n"
        "xvit data check --data.root k400 --data.format kinetics --data.train train.csv --data.val val.csv --full\n"
        "xvit data check --data.root videos --data.format list --data.val report/val.txt "
        "--data.label_files report/labels.json",
    )
    made.add_argument(
        "--output", metavar="DIR", type=str | None, default=None, help="folder for the report, to be made"
    )
    made.add_argument("--full", action="store_true", help="decode all frames")
    made.add_argument(
        "--num-frames", metavar="T", type=int, default=8, help="frames of a clip: a video of fewer is a problem"
    )
    add_json(made)
    made.add_class_arguments(DataConfig, "data", skip={*TRAINING_ONLY, "max_missing_fraction"})
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    made = parser()
    args = made.instantiate(parse_words(made, argv))
    if not args.data.root:
        raise XViTError("--data.root: missing: the folder of the videos. See `xvit data check --help`")
    return args


def run(args: Namespace) -> int:
    """Check."""
    from xvit.cli.data_report import summary
    from xvit.data.annotations.formats import load_splits
    from xvit.data.tools.check import check_data

    output = check_new_folder(args.output) if args.output else None
    data = load_splits(replace(args.data, max_missing_fraction=1.0))
    with terminal.counter("checking", quiet=args.json) as advance:
        report = check_data(
            data, num_frames=args.num_frames, full=args.full, num_workers=args.data.num_workers, on_progress=advance
        )
    if output:
        _write(output, report, args)
    if args.json:
        terminal.print_json(summary(report))
        return SOME_FAILED if report.problems else SUCCESS
    out = terminal.console()
    found = summary(report)
    facts = {
        "samples": f"{found['samples']} in {found['files']} files, {found['hours']:.2f} hours",
        "usable": f"{found['usable']['train']} to train on, {found['usable']['val']} to validate on",
        "with a problem": ", ".join(f"{number} {kind}" for kind, number in report.kinds.items()) or "none",
        "odd frame rates": str(len(report.odd)) if report.odd else None,
    }
    out.print(terminal.pairs(facts))
    if report.problems:
        shown = terminal.table("video", "is", "why")
        for problem in report.problems[:_NAMED]:
            shown.add_row(problem.path or problem.id, problem.kind, problem.reason)
        out.print(shown)
        if len(report.problems) > _NAMED:
            where = f"{output / 'report.json'} names them" if output else "--output DIR writes them all"
            out.print(f"... and {len(report.problems) - _NAMED} more: {where}")
    for file in report.odd[:_NAMED]:
        out.print(f"{file.path}: {file.fps:g} frames a second: odd here, used all the same")
    if output:
        out.print(f"written to {output}")
    return SOME_FAILED if report.problems else SUCCESS


def _write(output: Path, report: "Report", args: Namespace) -> None:
    """Fill a folder beside the output, and move it there when it is whole."""
    from xvit.cli.data_report import summary, write_page
    from xvit.data.tools.check import write_clean

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as unfinished:
        made = Path(unfinished, output.name)
        (made / "pictures").mkdir(parents=True)
        settings = write_clean(report, args.data, made)
        (made / "report.json").write_text(json.dumps(summary(report), indent=2) + "\n", encoding="utf-8")
        write_page(report, args.data, made, full=args.full, settings=settings)
        if output.exists():
            output.rmdir()
        made.rename(output)
