"""Does the loader's memory stay constant, and do training and evaluation cope with one bad video in twenty?

    python benchmarks/endurance.py [--videos 2000] [--epochs 3] [--json]

Memory: the proportional set size (Linux) of this process and its two loader workers after each epoch over many videos.
It must not grow by more than 2 % from the end of the second epoch, when everything has been allocated, to the end of
the last one.

Bad videos: 5 % of 240 synthetic videos are damaged in six ways, half of them in the training split. `xvit train` must
finish and name them; `xvit eval` must name them and evaluate every other video once.

The exit code is 1 if a requirement is not met.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import torch
import yaml

from common import log_progress
from kills import RECIPE
from xvit.cli.main import main as xvit
from xvit.config import AugmentConfig, ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.synthetic.dataset import write_motion_dataset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.barcode_videos import corrupt, truncate, write_audio

MAX_GROWTH = 1.02
NUM_FILES = 100  # distinct videos on disk; the others are hard links to them
DAMAGES = ("truncated", "corrupted", "empty", "text", "audio only", "wrong extension")
UNREADABLE = ("truncated", "empty", "text", "audio only")


def memory_bytes(pid: int) -> int:
    """Memory of a process; memory that it shares with others is counted proportionally."""
    match = re.search(r"Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert match is not None
    return 1024 * int(match[1])


def measure_memory(root: Path, num_videos: int, epochs: int) -> Iterator[tuple[int, int]]:
    """Bytes of the main process and of its workers after each epoch."""
    write_motion_dataset(root / "files", clips_per_class=NUM_FILES // 12 + 2, seed=0)
    files = sorted((root / "files").rglob("*.mp4"))[:NUM_FILES]
    samples = []
    for number in range(num_videos):
        path = root / "links" / f"{number:06d}.mp4"
        path.parent.mkdir(exist_ok=True)
        os.link(files[number % len(files)], path)
        samples.append(Sample(path=str(path), label=number % 12, id=path.name))
    spec = ClipSpec(
        num_frames=8, frame_rate=None, image_size=48, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    augment = AugmentConfig(auto_augment="auto", random_erasing=0.5)
    dataset = VideoDataset(samples=samples, clip_spec=spec, augment=augment)
    loader = make_loader(dataset, batch_size=16, num_workers=2, sampler=EpochSampler(dataset))
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        assert sum(len(batch["indices"]) for batch in loader) == num_videos
        yield memory_bytes(os.getpid()), sum(memory_bytes(child.pid) for child in active_children() if child.pid)


def damage(files: list[Path]) -> dict[str, Path]:
    """Damage six files, each in a different way. Returns their paths afterwards."""
    damaged = dict(zip(DAMAGES, files, strict=True))
    intact = damaged["truncated"].with_suffix(".intact")
    for name, change in (("truncated", partial(truncate, fraction=0.5)), ("corrupted", corrupt)):
        shutil.move(damaged[name], intact)
        change(damaged[name], intact)
        intact.unlink()
    damaged["empty"].write_bytes(b"")
    damaged["text"].write_text("no video\n" * 100)
    damaged["audio only"].unlink()
    write_audio(damaged["audio only"])
    damaged["wrong extension"] = damaged["wrong extension"].rename(damaged["wrong extension"].with_suffix(".webm"))
    return damaged


def run_quietly(*args: object) -> int:
    """Run an xvit command in this process without its output. Returns the exit code."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return xvit([str(arg) for arg in args])


def run_with_bad_videos(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Train and evaluate with damaged files. Returns the outcome for each of them, and the failures."""
    videos = root / "videos"
    write_motion_dataset(videos, clips_per_class=20, seed=1)
    damaged = {}
    for split in ("train", "val"):
        files = [sorted(folder.iterdir())[0] for folder in sorted((videos / split).iterdir())]
        damaged[split] = damage(files[: len(DAMAGES)])
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"train": {"epochs": 2, "batch_size": 16}}))
    failures = []
    run, output = root / "run", root / "evaluation"
    code = run_quietly("train", "--config", root / "recipe.yaml", "--data.root", videos, "--output", run)
    if code != 1 or not (run / "last").exists():
        failures.append(f"training: exit code {code}; expected 1 (finished, some videos unreadable) and a checkpoint")
    code = run_quietly("eval", "--checkpoint", run / "last", "--data.root", videos, "--output", output)
    if code != 1:
        failures.append(f"evaluation: exit code {code}; expected 1")
    result = json.loads((output / "evaluation.json").read_text())
    named = {
        "train": {row["path"] for row in map(json.loads, (run / "bad_videos.jsonl").read_text().splitlines())},
        "val": {path for _, path, _ in result["failures"]},
    }
    rows = []
    for split, paths in damaged.items():
        for name, path in paths.items():
            outcome = "named" if str(path) in named[split] else "read"
            rows.append((split, name, outcome))
            # The sampled frames of a corrupted file may be intact.
            if (name in UNREADABLE) != (outcome == "named") and name != "corrupted":
                failures.append(f"{split}: {name}: {path.name} was {outcome}")
    failures += [f"{path}: named, but intact" for path in named["val"] - set(map(str, damaged["val"].values()))]
    ids = [json.loads(line)["id"] for line in (output / "predictions.jsonl").read_text().splitlines()]
    expected, read, failed = result["expected"], result["videos"], len(result["failures"])
    if not len(set(ids)) == len(ids) == read == expected - failed or expected != 48:
        failures.append(f"{expected} expected, {read} read, {failed} failed: not each video exactly once")
    return rows, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log_progress(f"memory over {args.epochs} epochs of {args.videos} videos")
        memory = list(measure_memory(Path(folder), args.videos, args.epochs))
        log_progress("one bad video in twenty")
        rows, failures = run_with_bad_videos(Path(folder))
    for name, second, last in zip(("main process", "workers"), memory[1], memory[-1], strict=True):
        if last > MAX_GROWTH * second:
            failures.append(f"{name}: {second / 1e6:.1f} MB after the second epoch, {last / 1e6:.1f} MB after the last")
    if args.json:
        print(json.dumps({"bytes_after_epochs": memory, "bad_videos": rows, "failures": failures}))
    else:
        for epoch, (main_process, workers) in enumerate(memory, start=1):
            print(f"after epoch {epoch}: main process {main_process / 1e6:.1f} MB, workers {workers / 1e6:.1f} MB")
        for split, name, outcome in rows:
            print(f"{split:6} {name:16} {outcome}")
        print("\n".join(failures) or "all requirements are met")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
