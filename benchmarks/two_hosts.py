"""Train on two hosts and lose one of them at random moments: the weights must be those of an undisturbed run.

    python benchmarks/two_hosts.py [--kills 3] [--power-cuts 0] [--seed 0] [--log FILE] [--json]

The hosts are network namespaces of this machine with addresses and names of their own (Linux, root and iproute2). Each
runs `torchrun --nnodes 2 ... -m xvit train --resume` with the default rendezvous. A kill is a SIGKILL to all processes
of a host, torchrun included: of host-b and of host-a, which keeps the rendezvous, in turn. In a power cut, the network
cable of host-b is pulled before that, and another machine with another address takes its place, so that host-a hears
nothing. (If host-a vanishes like that, host-b waits until its system gives up the connection, for up to 16 minutes.) As
on a cluster, the command of a host is started again when it ends without success, 2 s later, and a host is back 5 s
after its loss.

The weights are compared bit by bit with those of two hosts that nothing happens to, and up to the order of summation
with those of one process of twice the batch size. The exit code is 1 if they differ.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import yaml
from safetensors.torch import load_file

from common import log_progress
from xvit.data.synthetic.dataset import write_motion_dataset

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.hosts import Host, NoHostsError, two_hosts

BATCH_SIZE = 4
RECIPE: dict[str, Any] = {
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "num_frames": 4,
        "backbone_kwargs": {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    "clip": {"num_frames": 4, "image_size": 32, "interpolation": "bilinear"},
    "data": {"num_workers": 1},
    "augment": {"horizontal_flip": 0.0},
    "train": {
        "epochs": 5,
        "batch_size": BATCH_SIZE,
        "optimizer": "sgd",  # AdamW's first steps divide by gradients near 0, which magnifies the last bits
        "lr": 0.05,
        "ema_decay": 0.9,
        "save_minutes": 0.01,  # so that a loss costs some steps
        "warmup_epochs": 1,
    },
}
TORCHRUN = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "20"]
TORCHRUN += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "host-a:29400", "--rdzv-id", "run", "-m", "xvit"]
RESTART_SECONDS, REPAIR_SECONDS, LIMIT_SECONDS = 2.0, 5.0, 1200.0
MAX_DIFFERENCE = 1e-4  # between weights, from sums in another order


class Cluster:
    """Runs a command on both hosts until it succeeds on both, and starts it again where it does not."""

    def __init__(self, hosts: tuple[Host, Host], words: list[str], log: TextIO) -> None:
        self.hosts, self.words, self.log = hosts, words, log
        self.begin = time.monotonic()
        self.starts = dict.fromkeys((host.name for host in hosts), 0)
        self._repaired = {host.name: threading.Event() for host in hosts}
        self._threads = [threading.Thread(target=self._keep_running, args=(host,), daemon=True) for host in hosts]
        for host, thread in zip(hosts, self._threads, strict=True):
            self._repaired[host.name].set()
            thread.start()

    def note(self, message: str) -> None:
        """Write a line with the time."""
        line = f"{time.monotonic() - self.begin:6.1f} s  {message}"
        log_progress(line)
        self.log.write(f"{line}\n")
        self.log.flush()

    def lose(self, host: Host, *, power_cut: bool) -> None:
        """Lose a host, and have it back some seconds later."""
        self._repaired[host.name].clear()
        if power_cut:
            host.set_link("down")
        number = host.kill()
        self.note(f"{host.name}: {'lost power' if power_cut else 'killed'} ({number} processes)")
        time.sleep(REPAIR_SECONDS)
        if power_cut:
            host.change_address()
            host.set_link("up")
        self._repaired[host.name].set()

    def is_running(self) -> bool:
        """Whether the command has yet to succeed on some host."""
        return any(thread.is_alive() for thread in self._threads)

    def wait(self) -> float:
        """Wait until the command has succeeded on both hosts. Returns the seconds since the start."""
        for thread in self._threads:
            thread.join(LIMIT_SECONDS)
        if self.is_running():
            raise SystemExit(f"the training did not end within {LIMIT_SECONDS:.0f} s")
        return time.monotonic() - self.begin

    def _keep_running(self, host: Host) -> None:
        while True:
            self._repaired[host.name].wait()
            self.starts[host.name] += 1
            self.note(f"{host.name}: starts torchrun")
            command = host.command(sys.executable, *self.words)
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log) as process:
                code = process.wait()
            self.note(f"{host.name}: torchrun ended, exit code {code}")
            if code == 0:
                return
            time.sleep(RESTART_SECONDS)


def saved_step(run: Path) -> int:
    """The step of the newest saved state; 0 if there is none."""
    return max((int(path.name.removeprefix("step_")) for path in run.glob("state/step_*")), default=0)


def logged_step(run: Path) -> int:
    """The step of the newest metric row, of which there is one every 20 steps or less; 0 if there is none."""
    path = run / "metrics.jsonl"
    rows = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(row)["step"] for row in rows if row.endswith("}")), default=0)


def train_with_losses(
    cluster: Cluster, run: Path, total: int, losses: list[tuple[Host, bool]], rng: random.Random
) -> int:
    """Lose a host at a random moment of each of the equal parts of a run. Returns the number of losses."""
    for part, (host, power_cut) in enumerate(losses):
        step = rng.uniform(part + 0.2, part + 1) * total / (len(losses) + 0.5)
        while logged_step(run) < step:
            if not cluster.is_running():
                return part
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        steps = f"last metric row of step {logged_step(run)}, last saved state of step {saved_step(run)}"
        cluster.note(f"{steps}, {total} steps in all")
        cluster.lose(host, power_cut=power_cut)
    return len(losses)


def weights_hash(checkpoint: Path) -> str:
    """Hash of the weight file, whose bytes depend on the weights alone."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()[:16]


def difference(a: Path, b: Path) -> float:
    """The largest difference of a weight between two checkpoints."""
    in_a, in_b = (load_file(path / "model.safetensors") for path in (a, b))
    return max(float((in_a[name] - in_b[name]).abs().max()) for name in in_a)


def measure(root: Path, log: TextIO, args: argparse.Namespace) -> dict[str, Any]:
    """Train in one process, on two hosts, and on two hosts that are lost in turn."""
    rng = random.Random(args.seed)
    write_motion_dataset(root / "videos", clips_per_class=60, seed=0)
    (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    words = ["train", "--config", str(root / "recipe.yaml"), "--data.root", str(root / "videos"), "--resume"]
    log_progress(f"one process, {2 * BATCH_SIZE} clips per step")
    single = ["-m", "xvit", *words, "--output", str(root / "single"), "--train.batch_size", str(2 * BATCH_SIZE)]
    subprocess.run([sys.executable, *single], check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    with two_hosts(root) as hosts:
        log_progress(f"two hosts, {BATCH_SIZE} clips per step each")
        undisturbed, disturbed = root / "undisturbed", root / "disturbed"
        seconds = Cluster(hosts, [*TORCHRUN, *words, "--output", str(undisturbed)], log).wait()
        steps = saved_step(undisturbed)
        losses = [(hosts[1 - number % 2], False) for number in range(args.kills)]
        losses += [(hosts[1], True)] * args.power_cuts
        log_progress(f"two hosts, {len(losses)} losses")
        cluster = Cluster(hosts, [*TORCHRUN, *words, "--output", str(disturbed)], log)
        lost = train_with_losses(cluster, disturbed, steps, losses, rng)
        disturbed_seconds = cluster.wait()
    runs = (undisturbed, disturbed)
    hashes = {name: {run.name: weights_hash(run / name) for run in runs} for name in ("best", "last")}
    return {
        "losses": lost,
        "planned": len(losses),
        "steps": steps,
        "starts": cluster.starts,
        "identical": all(len(set(values.values())) == 1 for values in hashes.values()),
        "hashes": hashes,
        "max_difference_to_one_process": difference(root / "single" / "last", undisturbed / "last"),
        "seconds": {"undisturbed": round(seconds, 1), "disturbed": round(disturbed_seconds, 1)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, help="hosts that are killed")
    parser.add_argument("--power-cuts", type=int, default=0, help="hosts that vanish and are replaced")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--log", default=os.devnull, help="file for the output of all processes")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of text")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see docs/guides/clusters.md
    with tempfile.TemporaryDirectory() as folder, open(args.log, "a") as log:
        try:
            result = measure(Path(folder), log, args)
        except NoHostsError as error:
            raise SystemExit(str(error)) from None
    if args.json:
        print(json.dumps(result))
    else:
        same = "bit-identical" if result["identical"] else "DIFFERENT"
        seconds, starts = result["seconds"], " and ".join(f"{n} on {name}" for name, n in result["starts"].items())
        print(f"{result['losses']} of {result['planned']} losses of a host in {result['steps']} steps, {starts} starts")
        print(f"final weights {same} to the undisturbed run: {json.dumps(result['hashes'])}")
        print(f"largest difference to one process: {result['max_difference_to_one_process']:.2g}")
        print(f"{seconds['undisturbed']} s undisturbed, {seconds['disturbed']} s with the losses")
    close = result["max_difference_to_one_process"] < MAX_DIFFERENCE
    return 0 if result["identical"] and result["losses"] == result["planned"] and close else 1


if __name__ == "__main__":
    sys.exit(main())
