"""`xvit data resize`: write smaller copies of videos."""

import time

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_json, make_parser, parse_args


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "data resize",
        "FOLDER --output DIR [--short-side 256] [--fps F] [--num-workers N]",
        "Write a smaller copy of each video of a folder, at the same relative path below the output folder. The "
        "copies are H.264 in mp4, without sound, with frequent keyframes: training decodes them in a fraction of "
        "the time.\n"
        "The originals are not changed. Videos that cannot be read are skipped and listed; the exit code is then "
        "1.",
        "xvit data resize videos --output small\nxvit data resize videos --output small --short-side 128 --fps 15",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=str, help="folder of the videos, searched at any depth")
    add("--output", metavar="DIR", type=str, required=True, help="folder for the copies")
    add(
        "--short-side",
        metavar="S",
        type=int,
        default=256,
        help="length of the shorter side, in pixels; smaller videos keep their size",
    )
    add("--fps", metavar="F", type=float | None, help="frames per second; unchanged if unset")
    add("--num-workers", metavar="N", type=int, default=2, help="processes; 0 encodes in the main process")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse the arguments after the command."""
    return parse_args(parser(), argv)


def run(args: Namespace) -> int:
    """Write the copies and print how many."""
    from xvit.data.tools.resize import resize_videos

    start = time.perf_counter()
    with terminal.progress_bar("resizing", quiet=args.json) as update:
        result = resize_videos(
            args.folder,
            args.output,
            short_side=args.short_side,
            fps=args.fps,
            num_workers=args.num_workers,
            on_progress=update,
        )
    if args.json:
        terminal.print_json(
            {
                "output": args.output,
                "written": result.written,
                "skipped": result.skipped,
                "failed": terminal.failures_to_json(result.failures),
            }
        )
    else:
        existing = f", {result.skipped} already existed" if result.skipped else ""
        seconds = time.perf_counter() - start
        terminal.console().print(f"{result.written} videos written to {args.output}{existing} ({seconds:.1f} s)")
    terminal.print_failures(result.failures, result.written + result.skipped + len(result.failures))
    return SOME_FAILED if result.failures else SUCCESS
