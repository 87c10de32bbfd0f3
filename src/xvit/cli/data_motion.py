"""`xvit data motion`: write the built-in data set."""

import time
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser, parse_args
from xvit.utils.errors import XViTError


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "data motion",
        "--output DIR [--clips-per-class N | --concatenate N] [--seed S]",
        "Write the built-in data set: short videos of moving shapes, whose class depends on the motion only. Each "
        "class has a time-reversed counterpart, so a model that ignores the order of the frames reaches at most "
        "50 %.\n"
        "Files: DIR/train/<class>/*.mp4 and DIR/val/<class>/*.mp4 (a fifth of the videos).\n\n"
        "With --concatenate: long videos DIR/*.mp4 instead, of 30 new clips each, and DIR/segments.json, the "
        "start, end and class of each clip, for `xvit timeline`.",
        "xvit data motion --output videos --clips-per-class 340\n"
        "xvit data motion --output long --concatenate 3\n"
        "xvit train --config recipes/motion.yaml --data.root videos --output run",
    )
    add = parser.add_argument
    add("--output", metavar="DIR", type=str, required=True, help="folder to create")
    add("--clips-per-class", metavar="N", type=int | None, help="videos per class, of 2 s each; 100 if unset")
    add("--concatenate", metavar="N", type=int | None, help="write N long videos instead, of 1 minute each")
    add("--seed", metavar="S", type=int, default=0, help="seed of the videos")
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    if args.concatenate is not None and args.clips_per_class is not None:
        raise XViTError("--concatenate and --clips-per-class: choose one of them: long videos or short ones")
    return args


def run(args: Namespace) -> int:
    """Write the videos and print how many."""
    from xvit.data.synthetic.concatenated import write_concatenated_videos
    from xvit.data.synthetic.motion import CLASSES, write_motion_dataset

    start = time.perf_counter()
    with terminal.progress_bar("writing videos", quiet=args.json) as update:
        if args.concatenate is not None:
            write_concatenated_videos(args.output, num_videos=args.concatenate, seed=args.seed, on_progress=update)
        else:
            clips = 100 if args.clips_per_class is None else args.clips_per_class
            write_motion_dataset(args.output, clips_per_class=clips, seed=args.seed, on_progress=update)
    files = list(Path(args.output).rglob("*.mp4"))
    size = sum(file.stat().st_size for file in files)
    seconds = time.perf_counter() - start
    if args.json:
        counts = {"classes": len(CLASSES), "videos": len(files), "bytes": size, "seconds": round(seconds, 2)}
        terminal.print_json({"output": args.output} | counts)
    else:
        terminal.console().print(
            f"{len(files)} videos of {len(CLASSES)} classes written to {args.output}: {size / 1e6:.1f} MB "
            f"({seconds:.1f} s)"
        )
    return SUCCESS
