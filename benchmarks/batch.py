"""Large jobs that lose processes, actors and nodes: does each input still have exactly one row, and the right one?

    python benchmarks/batch.py --output result [--checkpoint motion] [--videos 2000] [--kills 10] [--only local ray ...]

local       `kill -9` of a job in this process's own runner, again and again at random moments
node        a Ray cluster of three nodes: one is removed without grace and one actor killed in mid-run
ray         `kill -9` of a job on that cluster, again and again
shards      0/3, 1/3 and 2/3 together against one run, byte for byte
speed       rows per second of both runners with as many workers, in turns
memory      greatest memory of the process that drives a Ray job of 2,000 and of 200,000 listed paths
start       seconds and memory until a job of a list of 1,000,000 lines computes its first part

Rows are compared with those of a run that nothing disturbed. Needs the extras batch and ray, and some minutes.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from common import log_progress
from xvit.data.synthetic.dataset import encode_video
from xvit.data.synthetic.motion import CLASSES, render_clip

BROKEN_SHARE, DISTINCT = 0.05, 60
PART_SIZE = 32
NODES = 3
TOLERANCE = 1e-6
ROUNDS, LONGER = 5, 5
MANY, MOST = 200_000, 1_000_000

Rows = dict[int, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for batch.json")
    parser.add_argument("--checkpoint", default="motion")
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="xvit-batch-") as folder:
        bench = Bench(Path(folder), args.checkpoint, args.videos, args.kills)
        for name in args.only:
            log_progress(name)
            results[name] = STUDIES[name](bench)
            print(json.dumps({name: results[name]}), flush=True)
            (args.output / "batch.json").write_text(json.dumps(results, indent=2) + "\n")
    failed = [name for name, result in results.items() if result.get("passed") is False]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


class Bench:
    """A folder with videos, their list, and the rows of an undisturbed run."""

    def __init__(self, root: Path, checkpoint: str, num_videos: int, kills: int) -> None:
        self.root, self.checkpoint, self.num_videos, self.kills = root, checkpoint, num_videos, kills
        self.random = random.Random(0)
        self.list = root / "videos.txt"
        self.broken = write_inputs(root / "videos", self.list, num_videos)
        self.reference = self._reference()

    def command(self, output: Path, *words: str, source: Path | None = None) -> list[str]:
        job = ["--input", str(source or self.list), "--output", str(output), "--part-size", str(PART_SIZE), "--json"]
        return [sys.executable, "-m", "xvit", "predict", "--checkpoint", self.checkpoint, *job, *words]

    def _reference(self) -> Rows:
        log_progress("reference")
        start(self.command(self.root / "reference")).wait()
        rows, repeated = read_rows(self.root / "reference")
        assert (sorted(rows), repeated) == (list(range(self.num_videos)), 0)
        assert {index for index, row in rows.items() if row["status"] != "ok"} == self.broken
        return rows

    def compare(self, output: Path) -> dict[str, Any]:
        """The rows of a job against those of the reference."""
        rows, repeated = read_rows(output)
        missing = len(self.reference.keys() - rows.keys())
        differing, largest = 0, 0.0
        for index, row in rows.items():
            expected = self.reference[index]
            names = ("path", "status", "error", "labels", "times")
            differing += any(row[name] != expected[name] for name in names)
            if row["scores"] is not None and expected["scores"] is not None:
                largest = max(largest, float(np.abs(np.subtract(row["scores"], expected["scores"])).max()))
        passed = not missing and not repeated and not differing and largest <= TOLERANCE
        values = {"rows": len(rows), "missing": missing, "repeated": repeated, "differing": differing}
        return {"passed": passed, **values, "largest score difference": largest}


def write_inputs(folder: Path, list_file: Path, number: int) -> set[int]:
    """Write small videos, some of them broken, under many names. Returns the indices of the broken ones."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    originals = []
    for index in range(DISTINCT):
        path = folder / f"original{index}.mp4"
        encode_video(render_clip(CLASSES[index % len(CLASSES)], generator), path)
        originals.append(path.read_bytes())
        path.unlink()
    broken = set(random.Random(1).sample(range(number), round(BROKEN_SHARE * number)))
    for index in range(number):
        data = originals[index % DISTINCT]
        if index in broken:
            data = (data[: len(data) // 3], b"", b"no video at all", data[::-1])[index % 4]
        (folder / f"{index:05d}.mp4").write_bytes(data)
    list_file.write_text("".join(f"videos/{index:05d}.mp4\n" for index in range(number)))
    return broken


def read_rows(output: Path) -> tuple[Rows, int]:
    """The rows of a job by index, and how many have the index of another one."""
    rows: Rows = {}
    repeated = 0
    for path in sorted((output / "parts").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            repeated += row["index"] in rows
            rows[row["index"]] = row
    return rows, repeated


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own, so that all of it can be killed."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill_again_and_again(bench: Bench, output: Path, command: Sequence[str]) -> dict[str, Any]:
    """`kill -9` of all processes of a job in mid-run, each time at a random moment; then let it end."""
    total = math.ceil(bench.num_videos / PART_SIZE)
    counts = []
    for number in range(bench.kills):
        process = start(command)
        wait_for_parts(output, process, round((number + bench.random.random()) * total / (bench.kills + 1)))
        time.sleep(bench.random.uniform(0, 0.2))
        assert process.poll() is None, "the job ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        counts.append(num_parts(output))
        log_progress(f"killed with {counts[-1]} of {total} parts")
    code = start(command).wait()
    return {**bench.compare(output), "exit code": code, "parts when killed": counts, "parts": num_parts(output)}


def study_local(bench: Bench) -> dict[str, Any]:
    output = bench.root / "local"
    return kill_again_and_again(bench, output, bench.command(output))


def study_shards(bench: Bench) -> dict[str, Any]:
    output = bench.root / "shards"
    for shard in (2, 0, 1):
        start(bench.command(output, "--shard", f"{shard}/3")).wait()
    files = [{p.name: p.read_bytes() for p in (f / "parts").iterdir()} for f in (output, bench.root / "reference")]
    return {"passed": files[0] == files[1], "parts": len(files[0]), "bytes": sum(map(len, files[0].values()))}


@contextmanager
def cluster() -> Iterator[Any]:
    """A Ray cluster of a head without CPUs and some nodes of one CPU each, on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    running.workers = [running.add_node(num_cpus=1) for _ in range(NODES)]
    try:
        yield running
    finally:
        running.shutdown()


def ray_words(address: str) -> list[str]:
    return ["--runner", "ray", "--address", address, "--num-workers", "1"]


def actor_processes() -> list[int]:
    """Process ids of the actors that compute parts, without the processes that decode for them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text, fields = (path / "cmdline").read_bytes(), (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if text.startswith(b"ray::") and b"MapWorker" in text:
            parents[int(path.name)] = int(fields[1])
    return [process for process, parent in parents.items() if parent not in parents]


def study_node(bench: Bench) -> dict[str, Any]:
    output = bench.root / "node"
    with cluster() as running:
        process = start(bench.command(output, *ray_words(running.address)))
        wait_for_parts(output, process, len(bench.reference) // PART_SIZE // 5)
        victims = actor_processes()
        os.kill(bench.random.choice(victims), signal.SIGKILL)
        log_progress(f"one of {len(victims)} actors killed")
        wait_for_parts(output, process, len(bench.reference) // PART_SIZE // 2)
        was_running = process.poll() is None
        running.remove_node(running.workers.pop(), allow_graceful=False)
        log_progress("node removed")
        code = process.wait()
    result = bench.compare(output)
    result["passed"] = result["passed"] and was_running
    return {**result, "exit code": code, "removed in mid-run": was_running}


def wait_for_parts(output: Path, process: subprocess.Popen[bytes], number: int) -> None:
    while process.poll() is None and num_parts(output) < number:
        time.sleep(0.01)


def num_parts(output: Path) -> int:
    return len(list((output / "parts").glob("*.parquet")))


def study_ray(bench: Bench) -> dict[str, Any]:
    output = bench.root / "ray"
    with cluster() as running:
        return kill_again_and_again(bench, output, bench.command(output, *ray_words(running.address)))


def study_speed(bench: Bench) -> dict[str, Any]:
    """Rows per second: the list once, and five times; the difference is without imports and the start of Ray."""
    long_list = bench.root / "long.txt"
    long_list.write_text(bench.list.read_text() * LONGER)
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    with cluster() as running:
        same = ["--part-size", "256", "--num-workers", "1", "--threads", "1"]
        words = {"local": same, "ray": [*ray_words(running.address), "--actors", "1", *same]}
        for number in range(ROUNDS):
            for name in ("local", "ray") if number % 2 else ("ray", "local"):
                seconds = []
                for source in (bench.list, long_list):
                    output = bench.root / f"{name}-{number}-{source.stem}"
                    begun = time.monotonic()
                    start(bench.command(output, *words[name], source=source)).wait()
                    seconds.append(time.monotonic() - begun)
                rates[name].append((LONGER - 1) * bench.num_videos / (seconds[1] - seconds[0]))
                log_progress(f"{name}: {rates[name][-1]:.1f} rows/s")
    ratios = sorted(ray / local for ray, local in zip(rates["ray"], rates["local"], strict=True))
    medians = {name: round(float(np.median(values)), 1) for name, values in rates.items()}
    ratio = ratios[len(ratios) // 2]
    return {"passed": ratio >= 0.9, "rows per second": medians, "ratio": round(ratio, 3), "ratios": ratios}


class Memory(threading.Thread):
    """The greatest resident memory of a process, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak = pid, 0.0
        self.start()

    def run(self) -> None:
        path = Path(f"/proc/{self.pid}/statm")
        while True:
            try:
                pages = int(path.read_text().split()[1])
            except (OSError, IndexError):
                return
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            time.sleep(0.05)


def write_list(path: Path, bench: Bench, number: int) -> Path:
    """A list of many paths to a few files."""
    good = [index for index in range(DISTINCT) if index not in bench.broken]
    names = [str(bench.root / "videos" / f"{good[index % len(good)]:05d}.mp4") for index in range(number)]
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def study_memory(bench: Bench) -> dict[str, Any]:
    """A check of files, which takes milliseconds for each."""
    peaks: dict[str, float] = {}
    with cluster() as running:
        for number in (2000, MANY):
            source = write_list(bench.root / f"{number}.txt", bench, number)
            output = bench.root / f"memory-{number}"
            words = ["--input", str(source), "--output", str(output), "--data.num_workers", "1"]
            words += ["--runner", "ray", "--address", running.address]
            process = start([sys.executable, "-m", "xvit", "data", "check", *words])
            memory = Memory(process.pid)
            begun = time.monotonic()
            code = process.wait()
            memory.join()
            rows = sum(pq.read_metadata(path).num_rows for path in (output / "parts").iterdir())
            assert (code, rows) == (0, number), (code, rows)
            peaks[f"{number}"] = round(memory.peak)
            log_progress(f"{number} paths: {memory.peak:.0f} MB, {time.monotonic() - begun:.0f} s")
    first, last = peaks.values()
    return {"passed": last < first + 100, "peak MB by number of paths": peaks}


def study_start(bench: Bench) -> dict[str, Any]:
    source = write_list(bench.root / "most.txt", bench, MOST)
    output = bench.root / "start"
    begun = time.monotonic()
    process = start(bench.command(output, source=source))
    memory = Memory(process.pid)
    while not (output / "job.json").exists():
        assert process.poll() is None, "the job ended"
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    wait_for_parts(output, process, 1)
    first_part = time.monotonic() - begun
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    values = {"seconds until the job begins": round(seconds, 1), "until the first part": round(first_part, 1)}
    return {"passed": seconds < 10 and memory.peak < 1024, **values, "peak MB": round(memory.peak)}


STUDIES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "local": study_local,
    "shards": study_shards,
    "node": study_node,
    "ray": study_ray,
    "speed": study_speed,
    "memory": study_memory,
    "start": study_start,
}

if __name__ == "__main__":
    main()
