"""A training killed at random moments, again and again, must end with the weights of one that was not.

    python benchmarks/kills.py [--kills 24] [--seed 0] [--json]

Each run is `xvit train --resume` on made videos with two loader workers, dropout, mixup, averaged weights, saving after
every update. Its processes are killed (SIGKILL) together. After each kill every checkpoint and every saved state that
has its final name must be readable; in the end the weights are compared bit by bit. Exit code 1 if anything is not so.
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

import torch
import yaml
from safetensors.torch import load_file

from common import tell
from xvit.cli.main import main as xvit
from xvit.data.synthetic.motion import write_motion_dataset

KILLS_A_RUN = 6
RECIPE = {
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "num_frames": 4,
        "dropout": 0.2,
        "backbone_kwargs": {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    "clip": {"num_frames": 4, "image_size": 32, "interpolation": "bilinear"},
    "data": {"num_workers": 2, "horizontal_flip": 0.0},
    "train": {"epochs": 4, "batch_size": 8, "mixup": 0.4, "ema_decay": 0.9, "save_minutes": 0.0, "warmup_epochs": 1},
}


def start(words: list[str]) -> int:
    """The process id of a child, the first of a group of its own, that runs the command."""
    child = os.fork()  # not a new interpreter: importing takes seconds in which there is no training to kill
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(xvit(words))
    return child


def kill_after(child: int, seconds: float) -> bool:
    """Kill the child and its workers at that moment; False if it ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def unreadable(run: Path) -> list[str]:
    """Files of weights, and descriptions, under a final name, that cannot be read."""
    bad = []
    for path in [*run.glob("best/*"), *run.glob("last/*"), *run.glob("state/step_*/*")]:
        if any(part.startswith(".") for part in path.relative_to(run).parts):
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".bin", ".pkl"):
                torch.load(path, weights_only=False)  # of this very program
        except Exception as error:
            bad.append(f"{path}: {error}")
    return bad


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same weights, bit for bit."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="at least so many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    moments, began = random.Random(args.seed), time.monotonic()
    kills, runs, identical, damaged = 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_motion_dataset(root / "videos", clips_per_class=8, seed=0)
        (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        words = ["train", "--config", str(root / "recipe.yaml"), "--data.root", str(root / "videos"), "--resume"]
        tell("the run that is not killed")
        alone = time.monotonic()
        os.waitpid(start([*words, "--output", str(root / "whole")]), 0)
        alone = time.monotonic() - alone
        while kills < args.kills:
            runs, run, killed = runs + 1, root / f"run{runs}", 0
            # Moments from the very beginning to a third of a whole run: progress is made between two kills, mostly.
            while killed < KILLS_A_RUN and kill_after(
                start([*words, "--output", str(run)]), moments.uniform(0, alone / 3)
            ):
                killed += 1
                damaged += unreadable(run)
            os.waitpid(start([*words, "--output", str(run)]), 0)
            kills += killed
            equal = same(run / "last", root / "whole" / "last") and same(run / "best", root / "whole" / "best")
            identical += equal
            tell(f"run {runs}: {killed} kills, weights {'identical' if equal else 'DIFFER'}")
    seconds = time.monotonic() - began
    if args.json:
        print(json.dumps({"kills": kills, "runs": runs, "identical": identical, "unreadable": damaged}))
    else:
        print(
            f"{kills} kills in {runs} runs: final weights bit-identical in {identical} of {runs}, "
            f"{len(damaged)} unreadable files; {seconds:.0f} s"
        )
        print("\n".join(damaged[:5]), end="")
    return 0 if identical == runs and not damaged else 1


if __name__ == "__main__":
    sys.exit(main())
