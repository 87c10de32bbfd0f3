"""Kill a training at random moments: it must end with the same weights as an uninterrupted one.

    python benchmarks/kills.py [--kills 24] [--seed 0] [--json]

Each run is `xvit train --resume` on synthetic videos with two loader workers, dropout, mixup and averaged weights. Its
state is saved after every update. A kill is a SIGKILL to all processes of the run. After it, every checkpoint and
every saved state under its final name must be readable. At the end, the weights are compared bit by bit. The exit code
is 1 if a file is unreadable or weights differ.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from common import log_progress
from xvit.cli.main import main as xvit
from xvit.data.synthetic.dataset import write_motion_dataset

KILLS_PER_RUN = 6
RECIPE = {
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "num_frames": 4,
        "dropout": 0.2,
        "backbone_kwargs": {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    "clip": {"num_frames": 4, "image_size": 32, "interpolation": "bilinear"},
    "data": {"num_workers": 2},
    "augment": {"horizontal_flip": 0.0, "mixup": 0.4},
    "train": {"epochs": 4, "batch_size": 8, "ema_decay": 0.9, "save_minutes": 0.0, "warmup_epochs": 1},
}


def start(argv: list[str]) -> int:
    """Run an xvit command in a child process with its own process group. Returns the process id."""
    child = os.fork()  # not a new interpreter: importing takes seconds in which there is no training to kill
    if child == 0:
        os.setsid()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        os._exit(xvit(argv))
    return child


def finish(child: int) -> None:
    """Wait for the child to end by itself."""
    status = os.waitpid(child, 0)[1]
    if status:
        raise SystemExit(f"xvit train failed: exit code {os.waitstatus_to_exitcode(status)}")


def kill_after(child: int, seconds: float) -> bool:
    """Kill the child and its workers after some time. False if the child ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def find_unreadable(run: Path) -> list[str]:
    """The weight and metadata files under their final names that cannot be read."""
    unreadable = []
    for path in [*run.glob("best/*"), *run.glob("last/*"), *run.glob("state/step_*/*")]:
        if any(part.startswith(".") for part in path.relative_to(run).parts):
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".bin", ".pkl"):
                torch.load(path, weights_only=False)  # written by this program
        except Exception as error:
            unreadable.append(f"{path}: {error}")
    return unreadable


def same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints have bit-identical weights."""
    in_a, in_b = (load_file(path / "model.safetensors") for path in (a, b))
    return in_a.keys() == in_b.keys() and all(torch.equal(in_a[name], in_b[name]) for name in in_a)


def kill_runs(root: Path, min_kills: int, rng: random.Random) -> dict[str, Any]:
    """Train once without kills, then kill and resume runs until there were `min_kills` kills."""
    write_motion_dataset(root / "videos", clips_per_class=8, seed=0)
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    argv = ["train", "--config", str(root / "recipe.yaml"), "--data.root", str(root / "videos"), "--resume", "--output"]
    log_progress("uninterrupted run")
    reference, begin = root / "reference", time.monotonic()
    finish(start([*argv, str(reference)]))
    duration = time.monotonic() - begin
    kills, runs, identical, unreadable = 0, 0, 0, []
    while kills < min_kills:
        runs += 1
        run, run_kills = root / f"run{runs}", 0
        # Up to a third of the duration of a run, so that most runs progress between two kills
        while run_kills < KILLS_PER_RUN and kill_after(start([*argv, str(run)]), rng.uniform(0, duration / 3)):
            run_kills += 1
            unreadable += find_unreadable(run)
        finish(start([*argv, str(run)]))
        kills += run_kills
        is_identical = all(same_weights(run / name, reference / name) for name in ("best", "last"))
        identical += is_identical
        log_progress(f"run {runs}: {run_kills} kills, weights {'identical' if is_identical else 'DIFFER'}")
    return {"kills": kills, "runs": runs, "identical": identical, "unreadable": unreadable}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="minimum number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = kill_runs(Path(folder), args.kills, random.Random(args.seed))
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['kills']} kills in {result['runs']} runs: final weights bit-identical in {result['identical']} "
            f"of {result['runs']}, {len(result['unreadable'])} unreadable files; {time.monotonic() - begin:.0f} s"
        )
        print("\n".join(result["unreadable"][:5]), end="")
    return 0 if result["identical"] == result["runs"] and not result["unreadable"] else 1


if __name__ == "__main__":
    sys.exit(main())
