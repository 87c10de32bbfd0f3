"""xvit data resize FOLDER --output DIR [--short-side 256] [--fps F] [--num-workers N]

Write a smaller copy of each video of a folder, at the same relative path below the output folder. The copies
are H.264 in mp4, without sound, with frequent keyframes: training decodes them in a fraction of the time.
The originals are not changed. Run the same command to continue after a stop, or after videos were added or
replaced: only their copies are made. Videos that cannot be read are skipped and listed; the exit code is
then 1.

examples:
  xvit data resize videos --output small
  xvit data resize videos --output small --short-side 128 --fps 15
"""

import time

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, select
from xvit.utils.files import check_folder, check_writable_directory


def add_options(parser: CommandParser) -> None:
    parser.add("folder FOLDER", str, "folder of the videos, searched at any depth", check=check_folder)
    parser.add("--output DIR", str, "folder for the copies", required=True, check=check_writable_directory)
    parser.add("--short-side S", int, "length of the shorter side in pixels; smaller videos keep theirs", default=256)
    parser.add("--fps F", float | None, "frames per second; unchanged if unset")
    parser.add("--num-workers N", int, "processes; 0 encodes in the main process", default=2)


def run(args: Namespace) -> int:
    """Write the copies and print how many."""
    from xvit.data.tools.resize import resize_videos

    start = time.perf_counter()
    with terminal.progress_bar("resizing", quiet=args.json) as update:
        options = select(args, "short_side", "fps", "num_workers")
        result = resize_videos(args.folder, args.output, **options, on_progress=update)
    values = {"output": args.output, "written": result.written, "skipped": result.skipped}
    values |= {"remade": result.remade, "without_source": result.without_source}
    values |= {"source_bytes": result.source_bytes, "copy_bytes": result.copy_bytes}
    existing = f", {result.skipped} already existed" if result.skipped else ""
    sizes = f"{result.source_bytes / 1e6:,.1f} MB became {result.copy_bytes / 1e6:,.1f} MB"
    text = f"{result.written} videos written to {args.output}{existing}: {sizes} ({time.perf_counter() - start:.1f} s)"
    total = result.written + result.skipped + len(result.failures)
    values["failed"] = terminal.failures_to_json(result.failures)
    return terminal.finish(args, values, text, failures=result.failures, total=total)
