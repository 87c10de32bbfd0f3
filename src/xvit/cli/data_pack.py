"""xvit data pack --data.root DIR [--data.format FORMAT --data.train FILE --data.val FILE] --output DIR
                      [--shard-size MB]

Write a data set as shards: tar files of many videos and their labels, in the layout of WebDataset. A network
disk reads a few large files much faster than many small ones. The videos are copied as they are; the training
videos are in random order. Use the shards like any other data set, with --data.format webdataset.
Writes to the output folder: train-000000.tar, val-000000.tar, test-000000.tar, ..., beside each where
its videos lie (train-000000.index.json), and the class names (labels.json).
A shard appears once it is complete: run the same command to continue after a stop. Videos that cannot
be read and folders of frames are left out and listed; the exit code is then 1. Damaged videos are copied:
`xvit data check` finds them.

examples:
  xvit data pack --data.root videos --output shards
  xvit data pack --data.root k400 --data.format kinetics --data.train train.csv --data.val val.csv --output shards
  xvit train --config finetune --data.root shards --data.format webdataset --output run
  xvit predict shards/val-000000.tar --checkpoint run/best
"""

import time

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_data_args
from xvit.utils.files import check_writable_directory

_MB = 10**6


def add_options(parser: CommandParser) -> None:
    parser.add("--output DIR", str, "folder for the shards", required=True, check=check_writable_directory)
    text = "megabytes of videos in a shard; a larger video gets a shard of its own"
    parser.add("--shard-size MB", float, text, default=1000.0, low=0.001)
    parser.add_data(skip=["num_workers", "decode_timeout"])


parse = parse_data_args


def run(args: Namespace) -> int:
    """Write the shards and print how many."""
    from xvit.data.annotations import load_splits
    from xvit.data.tools.pack import pack_splits

    start = time.perf_counter()
    splits = load_splits(args.data)
    with terminal.progress_bar("packing", quiet=args.json) as update:
        result = pack_splits(splits, args.output, shard_size=round(args.shard_size * _MB), on_progress=update)
    num_shards = sum(result.shards.values())
    values = {"output": args.output, "shards": result.shards, "written": result.written}
    values |= {"skipped": num_shards - result.written, "videos": result.videos, "bytes": result.bytes}
    values |= {"missing": splits.missing, "failed": terminal.failures_to_json(result.failures)}
    shards = ", ".join(f"{number} {split}" for split, number in result.shards.items())
    existing = f", {values['skipped']} of them existed" if values["skipped"] else ""
    text = f"{result.videos} videos ({result.bytes / _MB:.1f} MB) in {num_shards} shards ({shards}){existing}"
    written = f"written to {args.output} ({time.perf_counter() - start:.1f} s)"
    missing = [f"left out, because they are missing: {len(splits.missing)} videos"] if splits.missing else []
    total = result.videos + len(result.failures)
    return terminal.finish(args, values, text, written, *missing, failures=result.failures, total=total)
