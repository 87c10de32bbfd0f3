"""Load and faults of `xvit serve`.

    python benchmarks/serve.py [--checkpoint motion] [--seconds 60] [--clients 1 8 32] [--faults-only] [--json]

Load: clients that send one video after the other, of 2, 6 and 12 s and with 1, 2 or 4 temporal views, to a service with
batching and to one without, in turn. Every answer is compared with that of `Predictor`. Shown are answers per second,
times, the share of batches by their number of clips, and the memory of the service (Linux).

Faults: slow, aborted and oversized uploads, idle WebSockets, garbage, requests of all kinds, SIGTERM and SIGKILL under
load. Each must leave no temporary file and no place of the queue taken, and no request without an answer or a
closed connection.

The exit code is 1 if an answer is wrong or missing, or a requirement is not met.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from common import log_progress
from endurance import memory_bytes
from xvit import Predictor
from xvit.data.synthetic.concatenated import write_concatenated_videos

TIMEOUT = 120.0  # seconds after which a request counts as lost
VIEWS = (1, 1, 1, 2, 4)  # temporal views of the requests, in turn
MAX_MEMORY_RATIO = 2.0  # of the largest number of clients to one
MAX_P95_BATCHES = 3.0  # p95 in batches, per client
_BUCKET = re.compile(r'xvit_batch_clips_bucket\{le="([\d.]+|\+Inf)",model="[^"]+"\} ([\d.e+]+)')


@dataclass(frozen=True)
class Job:
    """A request and its answer.

    Args:
        data: the video.
        views: temporal views.
        scores: the expected ones, by class.
    """

    data: bytes
    views: int
    scores: dict[str, float]


class ServiceProcess:
    """`xvit serve` in a process of its own, with a folder for its temporary files."""

    def __init__(self, checkpoint: str, folder: Path, *words: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "xvit", "serve", f"model={checkpoint}", "--port", "0", "--json", *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
        )
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def memory(self) -> int:
        return memory_bytes(self.process.pid)

    def metrics(self) -> str:
        return httpx.get(f"{self.address}/metrics", trust_env=False, timeout=TIMEOUT).text

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.metrics(), flags=re.MULTILINE)
        return sum(map(float, found))

    def uploads(self) -> int:
        """Files of requests that are in the folder; the samples are no such files."""
        return len(list(self.folder.glob("xvit-serve-*/*/*")))

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def service(checkpoint: str, folder: Path, *words: str) -> Iterator[ServiceProcess]:
    running = ServiceProcess(checkpoint, folder, *words)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def make_jobs(checkpoint: str, root: Path) -> list[Job]:
    """Videos of three lengths with different numbers of views, and the answers of `Predictor`."""
    paths = []
    for clips in (1, 3, 6):
        folder = root / f"videos-{clips}"
        write_concatenated_videos(folder, num_videos=3, clips_per_video=clips, seed=clips)
        paths += sorted(folder.glob("*.mp4"))
    jobs = []
    for views in sorted(set(VIEWS)):
        predictor = Predictor(checkpoint, temporal_views=views)
        for path in paths:
            prediction = predictor(path)
            jobs.append(Job(path.read_bytes(), views, dict(zip(prediction.labels, prediction.scores, strict=True))))
    by_views = {views: [job for job in jobs if job.views == views] for views in set(VIEWS)}
    return [by_views[views][i % len(paths)] for i in range(len(paths)) for views in VIEWS]


@dataclass
class Load:
    """What clients saw.

    Args:
        seconds: times of the answers.
        outcomes: how many requests had each status, or failed in which way.
        wrong: answers with other scores than expected.
    """

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0


async def ask(client: httpx.AsyncClient, job: Job, load: Load) -> None:
    """Send one request, and check its answer."""
    start = time.perf_counter()
    params = {"temporal_views": job.views, "top_k": 1000}
    try:
        response = await client.post("/v1/predict", params=params, files={"file": job.data})
    except httpx.TimeoutException:
        load.outcomes["lost"] += 1
        return
    except httpx.TransportError:
        load.outcomes["connection closed"] += 1
        return
    load.seconds.append(time.perf_counter() - start)
    load.outcomes[str(response.status_code)] += 1
    if response.status_code == 200:
        answer = response.json()
        found = dict(zip(answer["labels"], answer["scores"], strict=True))
        load.wrong += any(abs(found[name] - score) > 1e-6 for name, score in job.scores.items())


async def run_clients(address: str, jobs: list[Job], clients: int, seconds: float) -> Load:
    """Clients that each send one request after the other for some seconds."""
    load, end = Load(), time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT, limits=limits, trust_env=False) as client:

        async def work(number: int) -> None:
            turn = number
            while time.perf_counter() < end:
                await ask(client, jobs[turn % len(jobs)], load)
                turn += 1

        await asyncio.gather(*(work(number) for number in range(clients)))
    return load


def batch_counts(metrics: str) -> dict[str, float]:
    """How many batches had at most so many clips."""
    return {size: float(count) for size, count in _BUCKET.findall(metrics)}


def measure(running: ServiceProcess, jobs: list[Job], clients: int, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    before, start = running.metrics(), time.perf_counter()
    batch_seconds, batches = running.metric("xvit_batch_seconds_sum"), running.metric("xvit_batch_seconds_count")
    peak = [running.memory()]

    async def watch() -> Load:
        task = asyncio.create_task(run_clients(running.address, jobs, clients, seconds))
        while not task.done():
            await asyncio.wait([task], timeout=0.5)
            peak.append(running.memory())
        return task.result()

    load = asyncio.run(watch())
    elapsed = time.perf_counter() - start
    counts, old = batch_counts(running.metrics()), batch_counts(before)
    steps = [counts[size] - old.get(size, 0.0) for size in counts]
    own = np.diff([0.0, *steps])
    num_batches = running.metric("xvit_batch_seconds_count") - batches
    return {
        "clients": clients,
        "answers": len(load.seconds),
        "answers_per_second": load.outcomes["200"] / elapsed,
        **{f"p{q}_seconds": float(np.percentile(load.seconds, q)) for q in (50, 95, 99)},
        "outcomes": dict(load.outcomes),
        "wrong": load.wrong,
        "batch_seconds": (running.metric("xvit_batch_seconds_sum") - batch_seconds) / max(num_batches, 1),
        "batch_shares": {size: float(n / max(sum(own), 1)) for size, n in zip(counts, own, strict=True) if n},
        "peak_bytes": max(peak),
        "uploads_left": running.uploads(),
    }


def run_load(args: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """The rows of the table: each number of clients, with batching and without."""
    jobs, rows = make_jobs(args.checkpoint, root), []
    with (
        service(args.checkpoint, root / "with") as batching,
        service(args.checkpoint, root / "without", "--batch-clips", "1") as single,
    ):
        for running in (batching, single):
            asyncio.run(run_clients(running.address, jobs, 2, min(5.0, args.seconds)))  # warm-up
        for clients in args.clients:
            for name, running in (("batching", batching), ("no batching", single)):
                log_progress(f"{clients} clients, {name}")
                rows.append({"service": name} | measure(running, jobs, clients, args.seconds))
    return rows


def check_load(rows: list[dict[str, Any]]) -> list[str]:
    """The requirements that are not met."""
    missed = []
    for row in rows:
        name = f"{row['clients']} clients, {row['service']}"
        if row["wrong"] or set(row["outcomes"]) != {"200"}:
            missed.append(f"{name}: {row['wrong']} wrong answers, outcomes {row['outcomes']}")
        if row["uploads_left"]:
            missed.append(f"{name}: {row['uploads_left']} files are left")
    last, first = rows[-2], rows[0]
    if last["peak_bytes"] > MAX_MEMORY_RATIO * first["peak_bytes"]:
        missed.append(f"memory: {last['peak_bytes'] / first['peak_bytes']:.2f} times that of one client")
    limit = MAX_P95_BATCHES * last["clients"] * last["batch_seconds"]
    if last["p95_seconds"] > limit:
        missed.append(f"p95 of {last['clients']} clients: {last['p95_seconds']:.2f} s, over {limit:.2f} s")
    if last["answers_per_second"] < rows[-1]["answers_per_second"]:
        missed.append("fewer answers per second with batching than without")
    return missed


def print_load(rows: list[dict[str, Any]]) -> None:
    print(
        "| service | clients | answers/s | p50 | p95 | p99 | a batch | batches of 1, 2, 4, 8 clips or less | memory |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(f"{1000 * row[f'p{q}_seconds']:.0f} ms" for q in (50, 95, 99))
        shares = ", ".join(f"{100 * row['batch_shares'].get(size, 0):.0f} %" for size in ("1.0", "2.0", "4.0", "8.0"))
        print(
            f"| {row['service']} | {row['clients']} | {row['answers_per_second']:.1f} | {times} "
            f"| {1000 * row['batch_seconds']:.1f} ms | {shares} | {row['peak_bytes'] / 2**20:.0f} MB |"
        )


def main() -> int:
    from serve_faults import run_faults

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="motion", help="a trained or exported model with the motion classes")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--faults-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [] if args.faults_only else run_load(args, Path(folder))
        faults = run_faults(args.checkpoint, Path(folder))
    missed = (check_load(rows) if rows else []) + [
        f"{fault['fault']}: {fault['outcome']}" for fault in faults if not fault["passed"]
    ]
    if args.json:
        print(json.dumps({"load": rows, "faults": faults, "missed": missed}, indent=2))
    else:
        print_load(rows)
        for fault in faults:
            print(f"{'passed' if fault['passed'] else 'FAILED'}  {fault['fault']}: {fault['outcome']}")
        print("\n".join(["", *(f"missed: {text}" for text in missed)]) if missed else "\nall requirements are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
