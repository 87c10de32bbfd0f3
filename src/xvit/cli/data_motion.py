"""`xvit data motion`: the built-in data set."""

import time
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.utils.errors import XViTError


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "data motion",
        "--output DIR [--clips-per-class N | --joined N] [--seed S]",
        "Write the built-in data set: short videos of moving shapes, whose class is what happens over time. Each\n"
        "class has a time-reversed twin, so a model that is blind to the order of the frames reaches at most 50 %.\n"
        "Layout: DIR/train/<class>/*.mp4 and DIR/val/<class>/*.mp4 (a fifth is held out).\n\n"
        "With --joined, instead: long videos, DIR/*.mp4, of 30 other clips each, one after the other, and when which\n"
        "class begins and ends, DIR/segments.json: for `xvit timeline`.",
        "xvit data motion --output videos --clips-per-class 340\n"
        "xvit data motion --output long --joined 3\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output run",
    )
    made.add_argument("--output", metavar="DIR", type=str, required=True, help="folder to make")
    made.add_argument(
        "--clips-per-class", metavar="N", type=int | None, default=None, help="videos a class, 2 s each; 100 if unset"
    )
    made.add_argument(
        "--joined", metavar="N", type=int | None, default=None, help="write N long videos instead, 1 minute each"
    )
    made.add_argument("--seed", metavar="S", type=int, default=0, help="another seed gives other videos")
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    if args.joined is not None and args.clips_per_class is not None:
        raise XViTError("--joined and --clips-per-class: choose one: long videos, or clips")
    return args


def run(args: Namespace) -> int:
    """Write the videos."""
    from xvit.data.synthetic.concatenated import write_joined
    from xvit.data.synthetic.motion import CLASSES, write_motion

    start = time.perf_counter()
    with terminal.counter("writing videos", quiet=args.json) as advance:
        if args.joined is not None:
            write_joined(args.output, videos=args.joined, seed=args.seed, on_progress=advance)
        else:
            clips = 100 if args.clips_per_class is None else args.clips_per_class
            write_motion(args.output, clips_per_class=clips, seed=args.seed, on_progress=advance)
    files = list(Path(args.output).rglob("*.mp4"))
    result = {
        "output": args.output,
        "classes": len(CLASSES),
        "videos": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if args.json:
        terminal.print_json(result)
    else:
        terminal.console().print(
            f"{result['videos']} videos of {result['classes']} classes, {result['bytes'] / 1e6:.1f} MB, "
            f"in {result['output']} ({result['seconds']:.1f} s)"
        )
    return SUCCESS
