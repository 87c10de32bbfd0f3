"""Does the loader's memory stay what it is, and does one bad video in twenty do no harm?

    python benchmarks/endurance.py [--videos 2000] [--epochs 3] [--json]

Memory: proportional set size (Linux) of this process and its two loader workers after each epoch over many videos; it
must not grow by more than 2 % from the end of the second epoch, when all is in use, to that of the last. Bad videos: of
240 made ones 5 % are spoiled in six ways, half of them in training and half held out; `xvit train` must reach its end
and name them, `xvit eval` must name them and count every other video once. Exit code 1 if anything is not so.
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
from xvit.data.synthetic.motion import write_motion_dataset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from videos import corrupt, truncate, write_audio

GROWTH = 1.02
DISTINCT = 100  # videos on disk; the others are links to them
WAYS = ("truncated", "corrupted", "empty", "text", "sound only", "wrong extension")
MUST_FAIL = ("truncated", "empty", "text", "sound only")


def resident(process: int) -> int:
    """Bytes of memory that a process holds, what it shares with others counted in parts."""
    return 1024 * int(re.search(r"Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text())[1])


def memory(root: Path, videos: int, epochs: int) -> Iterator[tuple[int, int]]:
    """Bytes of the main process and of its workers after each epoch."""
    write_motion_dataset(root / "few", clips_per_class=DISTINCT // 12 + 2, seed=0)
    files = sorted((root / "few").rglob("*.mp4"))[:DISTINCT]
    samples = []
    for number in range(videos):
        path = root / "many" / f"{number:06d}.mp4"
        path.parent.mkdir(exist_ok=True)
        os.link(files[number % len(files)], path)
        samples.append(Sample(path=str(path), label=number % 12, id=path.name))
    spec = ClipSpec(num_frames=8, image_size=48, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    dataset = VideoDataset(samples=samples, clip_spec=spec, augment=AugmentConfig(auto_augment="auto", random_erasing=0.5))
    loader = make_loader(dataset, batch_size=16, num_workers=2, sampler=EpochSampler(dataset))
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        passing = iter(loader)
        seen = sum(len(batch["indices"]) for batch in passing)
        assert seen == videos
        num_workers = [worker.pid for worker in passing._workers]
        yield resident(os.getpid()), sum(map(resident, num_workers))


def spoil(files: list[Path]) -> dict[str, Path]:
    """Spoil six files, each in another way. Where they are then, by the way."""
    spoiled = dict(zip(WAYS, files, strict=True))
    whole = spoiled["truncated"].with_suffix(".whole")
    for name, change in (("truncated", lambda *paths: truncate(*paths, fraction=0.5)), ("corrupted", corrupt)):
        shutil.move(spoiled[name], whole)
        change(spoiled[name], whole)
        whole.unlink()
    spoiled["empty"].write_bytes(b"")
    spoiled["text"].write_text("no video\n" * 100)
    spoiled["sound only"].unlink()
    write_audio(spoiled["sound only"])
    spoiled["wrong extension"] = spoiled["wrong extension"].rename(spoiled["wrong extension"].with_suffix(".webm"))
    return spoiled


def command(*words: object) -> tuple[int, str]:
    """Exit code and standard output of a command run here."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = xvit([str(word) for word in words])
    return code, out.getvalue()


def bad_videos(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """What became of each spoiled file, and what is not as it should be."""
    videos = root / "videos"
    write_motion_dataset(videos, clips_per_class=20, seed=1)
    spoiled = {}
    for part in ("train", "val"):
        files = [sorted(folder.iterdir())[0] for folder in sorted((videos / part).iterdir())]
        spoiled[part] = spoil(files[:6])
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"train": {"epochs": 2, "batch_size": 16}}))
    wrong = []
    run, result = root / "run", root / "result"
    code, _ = command("train", "--config", root / "recipe.yaml", "--data.root", videos, "--output", run)
    if code != 1 or not (run / "last").exists():
        wrong.append(f"training ended with exit code {code}; expected 1 (done, some videos bad)")
    code, _ = command("eval", "--checkpoint", run / "last", "--data.root", videos, "--output", result)
    if code != 1:
        wrong.append(f"evaluation ended with exit code {code}; expected 1")
    told = json.loads((result / "evaluation.json").read_text())
    named = {
        "train": {row["path"] for row in map(json.loads, (run / "bad_videos.jsonl").read_text().splitlines())},
        "val": {path for _, path, _ in told["failures"]},
    }
    rows = []
    for part, files in spoiled.items():
        for way, path in files.items():
            seen = "named" if str(path) in named[part] else "read"
            rows.append((part, way, seen))
            if (way in MUST_FAIL) != (seen == "named") and way != "corrupted":  # what is sampled of that may be whole
                wrong.append(f"{part}: {way}: {path.name} was {seen}")
    others = named["val"] - set(map(str, spoiled["val"].values()))
    wrong += [f"{path}: named, but whole" for path in others]
    ids = [json.loads(line)["id"] for line in (result / "predictions.jsonl").read_text().splitlines()]
    expected, read, failed = told["expected"], told["videos"], len(told["failures"])
    if not len(set(ids)) == len(ids) == read == expected - failed or expected != 48:
        wrong.append(f"{expected} expected, {read} read, {failed} failed: not each once")
    return rows, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log_progress(f"memory over {args.epochs} epochs of {args.videos} videos")
        grown = list(memory(Path(folder), args.videos, args.epochs))
        log_progress("one bad video in twenty")
        rows, wrong = bad_videos(Path(folder))
    for name, first, last in zip(("main process", "num_workers"), grown[1], grown[-1], strict=True):
        if last > GROWTH * first:
            wrong.append(f"{name}: {first / 1e6:.1f} MB after the second epoch, {last / 1e6:.1f} MB after the last")
    if args.json:
        print(json.dumps({"bytes_after_epochs": grown, "spoiled": rows, "wrong": wrong}))
    else:
        for epoch, (main_process, num_workers) in enumerate(grown, start=1):
            print(f"after epoch {epoch}: main process {main_process / 1e6:.1f} MB, workers {num_workers / 1e6:.1f} MB")
        for part, way, seen in rows:
            print(f"{part:6} {way:16} {seen}")
        print("\n".join(wrong) or "all as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
