"""`xvit data resize`: videos re-encoded smaller."""

import time

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "data resize",
        "FOLDER --output DIR [--short-side 256] [--fps F] [--num-workers N]",
        "Write each video of a folder to the same place below another one, smaller: H.264 in mp4, without sound, with\n"
        "keyframes near each other. Training then decodes them in a fraction of the time. The originals are only\n"
        "read. A video that cannot be read is named and left out; the exit code is then 1.",
        "xvit data resize videos --output small\nxvit data resize videos --output small --short-side 128 --fps 15",
    )
    made.add_argument("folder", metavar="FOLDER", type=str, help="folder of the videos, at any depth")
    made.add_argument("--output", metavar="DIR", type=str, required=True, help="folder of the results")
    made.add_argument(
        "--short-side", metavar="S", type=int, default=256, help="pixels of the shorter side; smaller ones keep theirs"
    )
    made.add_argument("--fps", metavar="F", type=float | None, default=None, help="frames a second; as it is if unset")
    made.add_argument(
        "--num-workers", metavar="N", type=int, default=2, help="processes; 0 encodes in the main process"
    )
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    return parse_words(parser(), argv)


def run(args: Namespace) -> int:
    """Write the videos."""
    from xvit.data.tools.resize import resize_videos

    start = time.perf_counter()
    with terminal.counter("resizing", quiet=args.json) as advance:
        done = resize_videos(
            args.folder,
            args.output,
            short_side=args.short_side,
            fps=args.fps,
            num_workers=args.num_workers,
            on_progress=advance,
        )
    seconds = time.perf_counter() - start
    if args.json:
        failed = [{"path": error.path, "reason": error.reason} for error in done.failures]
        terminal.print_json({"output": args.output, "written": done.written, "skipped": done.skipped, "failed": failed})
    else:
        before = f", {done.skipped} were there" if done.skipped else ""
        terminal.console().print(f"{done.written} videos written to {args.output}{before} ({seconds:.1f} s)")
    terminal.report_failures(done.failures, done.written + done.skipped + len(done.failures))
    return SOME_FAILED if done.failures else SUCCESS
