"""What a disk is asked for by an epoch of training, and how fast that is: shards beside plain files.

    python benchmarks/shards.py [--videos 200] [--shard-size 25] [--rounds 5] [--json]

Synthetic videos as in benchmarks/loader.py, packed by `pack_splits`. One epoch in the order of training:

    behind the last one   share of the videos that lie where the one before them ended, in one process that reads the
                          epoch, or in each of two workers; a plain file has to be found and opened
    read calls            of the operating system, for a clip of a video: FFmpeg reads a file in small pieces
    reading               MB/s of reading all videos in that order, without decoding; before each round the system is
                          asked to drop the files from its memory
    loading               clips/s of `make_loader`, with the files in memory: what decoding from a tar file costs
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import log_progress
from loader import SPEC, TRAINING, write_video
from xvit.config import DataConfig
from xvit.data.annotations import DatasetSplits, Sample, load_splits
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.shards import find_member, open_file
from xvit.data.tools.pack import pack_splits
from xvit.utils.timing import time_interleaved

BATCH = 16
MAX_GAP = 4096  # bytes of headers and of an annotation between two videos
WORKERS = (0, 2)


def make_dataset(samples: Sequence[Sample]) -> VideoDataset:
    return VideoDataset(samples=samples, clip_spec=SPEC, augment=TRAINING)


def read_order(dataset: VideoDataset, num_workers: int) -> list[list[Sample]]:
    """The videos that each process reads, in order: batches go to the workers in turn."""
    indices = list(EpochSampler(dataset))
    batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    processes = max(num_workers, 1)
    return [
        [dataset.samples[index] for batch in batches[worker::processes] for index in batch]
        for worker in range(processes)
    ]


def count_jumps(videos: Sequence[Sample]) -> int:
    """How many videos do not lie where the one before them ended."""
    jumps, shard, end = 0, "", 0
    for sample in videos:
        member = find_member(sample.path)
        if member is None or member.shard != shard or not 0 <= member.offset - end <= MAX_GAP:
            jumps += 1
        shard, end = (member.shard, member.offset + member.size) if member else ("", 0)
    return jumps


def read_all(videos: Sequence[Sample]) -> None:
    for sample in videos:
        with open_file(sample.path) as file:
            file.read()


def drop_from_memory(folder: Path) -> None:
    """Ask the system to forget the contents of all files in a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_cold(folder: Path, videos: Sequence[Sample]) -> float:
    """Seconds for reading all videos from the disk."""
    drop_from_memory(folder)
    start = time.perf_counter()
    read_all(videos)
    return time.perf_counter() - start


def count_read_calls(samples: Sequence[Sample]) -> float:
    """Read calls of this process for a clip of each video, per video (Linux)."""
    dataset = make_dataset(samples)
    before = _read_calls()
    for index in range(len(samples)):
        assert dataset[index].error is None
    return (_read_calls() - before) / len(samples)


def _read_calls() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


def load_epoch(dataset: VideoDataset, num_workers: int) -> Callable[[], None]:
    loader = make_loader(dataset, batch_size=BATCH, num_workers=num_workers, sampler=EpochSampler(dataset))

    def load() -> None:
        for batch in loader:
            assert not batch["errors"]

    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--shard-size", type=float, default=25.0, help="MB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.videos} videos of {result['mb_per_video']:.2f} MB, {result['shards']} shards, batches of {BATCH}\n")
    print(f"{'':34} {'plain files':>12} {'shards':>12}   shards over plain files, quartiles")
    for name, values in result["rows"].items():
        ratio = f"{values['ratio']:.2f} [{values['low']:.2f}, {values['high']:.2f}]" if "ratio" in values else ""
        print(f"{name:34} {values['plain']:12.1f} {values['shards']:12.1f}   {ratio}")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The numbers of both kinds of storage, by what was measured."""
    log_progress(f"writing {args.videos} videos")
    plain, packed = folder / "plain", folder / "shards"
    plain.mkdir()
    samples = []
    for number in range(args.videos):
        path = plain / f"{number}.mp4"
        write_video(path, seed=number, keyframes=250)
        samples.append(Sample(path=str(path), label=0, id=path.name))
    splits = DatasetSplits(train=samples, val=[], class_names=["video"])
    result = pack_splits(splits, packed, shard_size=round(args.shard_size * 1e6))
    config = DataConfig(root=str(packed), format="webdataset")
    datasets = {"plain": make_dataset(samples), "shards": make_dataset(load_splits(config).train)}
    folders = {"plain": plain, "shards": packed}
    rows: dict[str, dict[str, float]] = {}
    for num_workers in WORKERS:
        name = f"behind the last one, %, {num_workers} workers"
        orders = {kind: read_order(dataset, num_workers) for kind, dataset in datasets.items()}
        jumps = {kind: sum(map(count_jumps, order)) for kind, order in orders.items()}
        rows[name] = {kind: 100 * (1 - number / args.videos) for kind, number in jumps.items()}
    rows["read calls per clip"] = {kind: count_read_calls(data.samples[:32]) for kind, data in datasets.items()}
    log_progress("reading without decoding")
    seconds: dict[str, list[float]] = {kind: [] for kind in datasets}
    for _ in range(args.rounds):
        for kind, dataset in datasets.items():
            [order] = read_order(dataset, 0)
            seconds[kind].append(read_cold(folders[kind], order))
    rows["reading, MB/s"] = _rates(result.bytes / 1e6, seconds)
    for num_workers in WORKERS:
        log_progress(f"loading with {num_workers} workers")
        steps = {kind: load_epoch(dataset, num_workers) for kind, dataset in datasets.items()}
        times = time_interleaved(steps, rounds=args.rounds)
        rows[f"loading, clips/s, {num_workers} workers"] = _rates(args.videos, times)
    return {"mb_per_video": result.bytes / 1e6 / args.videos, "shards": result.shards["train"], "rows": rows}


def _rates(amount: float, seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median rate of each kind, and the ratio within each round: median and quartiles."""
    rates = {kind: amount / statistics.median(values) for kind, values in seconds.items()}
    ratios = [plain / shards for plain, shards in zip(seconds["plain"], seconds["shards"], strict=True)]
    return rates | dict(zip(("low", "ratio", "high"), statistics.quantiles(ratios, n=4), strict=True))


if __name__ == "__main__":
    sys.exit(main())
