"""xvit data motion --output DIR [--clips-per-class N | --concatenate N] [--seed S]

Write the built-in data set: short videos of moving shapes, whose class depends on the motion only. Each class
has a time-reversed counterpart, so a model that ignores the order of the frames reaches at most 50 %.
Files: DIR/train/<class>/*.mp4 and DIR/val/<class>/*.mp4 (a fifth of the videos).

With --concatenate: long videos DIR/*.mp4 instead, of 30 new clips each, and DIR/segments.json, the start, end
and class of each clip, for `xvit timeline`.

examples:
  xvit data motion --output videos --clips-per-class 340
  xvit data motion --output long --concatenate 3
  xvit train --config recipes/motion.yaml --data.root videos --output run
"""

import time
from pathlib import Path

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args
from xvit.utils.errors import XViTError


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str, "folder to create", required=True)
    parser.add("--clips-per-class N", int | None, "videos per class, of 2 s each; 100 if unset")
    parser.add("--concatenate N", int | None, "write N long videos instead, of 1 minute each")
    parser.add("--seed S", int, "seed of the videos", default=0)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and refuse those that exclude each other."""
    args = parse_args(parser, argv)
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
    counts = {"classes": len(CLASSES), "videos": len(files), "bytes": size, "seconds": round(seconds, 2)}
    text = f"{len(files)} videos of {len(CLASSES)} classes written to {args.output}: {size / 1e6:.1f} MB"
    return terminal.finish(args, {"output": args.output} | counts, f"{text} ({seconds:.1f} s)")
