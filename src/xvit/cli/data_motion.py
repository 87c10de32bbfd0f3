"""xvit data motion --output DIR [--clips-per-class N | --concatenate N] [--fps F] [--no-background] [--seed S]

Write the built-in data set: short videos of moving shapes, in 12 classes that depend on the motion only. Each
has a time-reversed counterpart, so a model that ignores the order of the frames reaches at most 50 % on them.
A 13th class, "background", is for models that watch long videos: static scenes, blank pictures, noise,
flicker and camera shake. It has three times as many videos as each of the others.
Files: DIR/train/<class>/*.mp4 and DIR/val/<class>/*.mp4 (a fifth of the videos).

With --concatenate: long videos DIR/*.mp4 instead, of 30 new clips each and as much time of background between
them, and DIR/segments.json, the start, end and class of each clip, for `xvit timeline`.

examples:
  xvit data motion --output videos --clips-per-class 340
  xvit data motion --output long --concatenate 3
  xvit data motion --output surveillance --concatenate 1 --clips-per-video 150 --fps 25   # 10 minutes
  xvit train --config motion --data.root videos --output run
"""

import time
from pathlib import Path

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args, select
from xvit.utils.errors import XViTError
from xvit.utils.files import check_writable_directory


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str, "folder to create", required=True, check=check_writable_directory)
    parser.add("--clips-per-class N", int | None, "videos per class, of 2 s each; 100 if unset")
    parser.add("--concatenate N", int | None, "write N long videos instead")
    parser.add("--clips-per-video N", int | None, "clips per long video, of 2 s each; 30 if unset")
    parser.add("--fps F", float, "frames per second; the motions stay the same", default=8.0)
    parser.add_switch("--no-background", "leave the background out: 12 classes, or clips without pauses")
    parser.add("--seed S", int, "seed of the videos", default=0)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and refuse those that exclude each other."""
    args = parse_args(parser, argv)
    if args.concatenate is not None and args.clips_per_class is not None:
        raise XViTError("--concatenate and --clips-per-class: choose one of them: long videos or short ones")
    if args.concatenate is None and args.clips_per_video is not None:
        raise XViTError("--clips-per-video is for long videos: add --concatenate N")
    return args


def run(args: Namespace) -> int:
    """Write the videos and print how many."""
    from xvit.data.synthetic.concatenated import write_concatenated_videos
    from xvit.data.synthetic.dataset import write_motion_dataset
    from xvit.data.synthetic.motion import CLASSES

    start = time.perf_counter()
    background = not args.no_background
    with terminal.progress_bar("writing videos", quiet=args.json) as update:
        options = select(args, "seed", "fps") | {"background": background, "on_progress": update}
        if args.concatenate is not None:
            clips = 30 if args.clips_per_video is None else args.clips_per_video
            write_concatenated_videos(args.output, num_videos=args.concatenate, clips_per_video=clips, **options)
        else:
            clips = 100 if args.clips_per_class is None else args.clips_per_class
            write_motion_dataset(args.output, clips_per_class=clips, **options)
    files = list(Path(args.output).rglob("*.mp4"))
    size = sum(file.stat().st_size for file in files)
    seconds = time.perf_counter() - start
    classes = len(CLASSES) + background
    counts = {"classes": classes, "videos": len(files), "bytes": size, "seconds": round(seconds, 2)}
    text = f"{len(files)} videos of {classes} classes written to {args.output}: {size / 1e6:.1f} MB"
    return terminal.finish(args, {"output": args.output} | counts, f"{text} ({seconds:.1f} s)")
