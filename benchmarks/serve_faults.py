"""The faults of the benchmark of `xvit serve`: what clients do wrong, and how the service ends. See serve.py."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from common import log_progress
from serve import TIMEOUT, Job, Load, ServiceProcess, make_jobs, run_clients, service

LIMIT_MB = 2
UPLOAD_SECONDS = 5
SLOW_CLIENTS, ABORTED, IDLE, GARBAGE, ALL_KINDS = 20, 100, 100, 200, 500
_SETTLE_SECONDS = 30.0

Outcome = tuple[bool, str]


def run_faults(checkpoint: str, root: Path) -> list[dict[str, Any]]:
    """Each fault, what happened, and whether that is right."""
    results: list[dict[str, Any]] = []
    jobs = make_jobs(checkpoint, root / "faults")

    def note(name: str, outcome: Outcome) -> None:
        results.append({"fault": name, "passed": outcome[0], "outcome": outcome[1]})

    words = ("--max-upload", str(LIMIT_MB), "--upload-timeout", str(UPLOAD_SECONDS))
    with service(checkpoint, root / "faulty", *words) as running:
        faults: dict[str, Callable[[ServiceProcess, list[Job]], Any]] = {
            f"{SLOW_CLIENTS} uploads of 1 byte per second": slow_uploads,
            f"{ABORTED} aborted uploads": aborted_uploads,
            f"uploads of 64 MB where {LIMIT_MB} MB are allowed": oversized_uploads,
            f"{IDLE} idle WebSockets": idle_websockets,
            f"{GARBAGE} times garbage": garbage,
            f"{ALL_KINDS} requests of all kinds": all_kinds,
        }
        for name, fault in faults.items():
            log_progress(name)
            passed, text = asyncio.run(fault(running, jobs))
            clean, left = settled(running)
            note(name, (passed and clean, f"{text}; {left}"))
    log_progress("SIGTERM under load")
    note("SIGTERM under load", asyncio.run(terminated(checkpoint, root / "terminated", jobs)))
    log_progress("SIGKILL under load, and restart")
    note("SIGKILL under load, and restart", asyncio.run(killed(checkpoint, root / "killed", jobs)))
    return results


def settled(running: ServiceProcess) -> Outcome:
    """Whether no place of the queue is taken and no file left, after some seconds at most."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        places, files = running.metric("xvit_queue"), running.uploads()
        if (not places and not files) or time.monotonic() > end:
            return not places and not files, f"afterwards {places:.0f} places taken, {files} files"
        time.sleep(0.2)


def describe(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "none"


def open_request(running: ServiceProcess, head: str) -> socket.socket:
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=TIMEOUT)
    connection.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: {host}:{port}\r\n{head}\r\n\r\n".encode())
    return connection


async def slow_uploads(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """Others are answered meanwhile, and the slow ones refused in time."""

    async def upload() -> str:
        host, _, port = running.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: video/mp4\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode())
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            writer.write(b"\0")
            await asyncio.wait([answer], timeout=1.0)
        writer.close()
        return (await answer).decode().split(" ")[1]

    slow = [asyncio.create_task(upload()) for _ in range(SLOW_CLIENTS)]
    load = await run_clients(running.address, jobs, 4, UPLOAD_SECONDS / 2)
    statuses = Counter(await asyncio.gather(*slow))
    text = f"slow: {describe(statuses)}; others meanwhile: {describe(load.outcomes)}, {load.wrong} wrong"
    return set(statuses) == {"408"} and set(load.outcomes) == {"200"} and not load.wrong, text


async def aborted_uploads(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """Half of a body is sent, then the connection is reset."""
    for number in range(ABORTED):
        size = "Transfer-Encoding: chunked" if number % 2 else "Content-Length: 1000000"
        with open_request(running, f"Content-Type: video/mp4\r\n{size}") as connection:
            connection.sendall(b"7a120\r\n" * (number % 2) + bytes(1000 * (number + 1)))
            await asyncio.sleep(0)
    load = await run_clients(running.address, jobs, 2, 1.0)
    return set(load.outcomes) == {"200"} and not load.wrong, f"others: {describe(load.outcomes)}"


async def oversized_uploads(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """With Content-Length and in chunks; the service receives little more than the limit."""
    before, count = running.metric("xvit_upload_bytes_total"), 5
    statuses = Counter([await asyncio.to_thread(_upload_64_mb, running, chunked) for chunked in [True, False] * count])
    received = (running.metric("xvit_upload_bytes_total") - before) / count / 2**20  # of those in chunks
    text = f"{describe(statuses)}; {received:.2f} MB received of each in chunks"
    return set(statuses) == {"413"} and received <= LIMIT_MB + 1, text


def _upload_64_mb(running: ServiceProcess, chunked: bool) -> str:
    headers = {"Content-Type": "video/mp4"} | ({} if chunked else {"Content-Length": str(2**26)})
    content = (bytes(65536) for _ in range(1024))
    try:
        return str(
            httpx.post(
                f"{running.address}/v1/predict", content=content, headers=headers, timeout=TIMEOUT, trust_env=False
            ).status_code
        )
    except httpx.TransportError:
        return "connection closed"


async def idle_websockets(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """They say nothing: others are answered, and they are closed after a while."""
    address = running.address.replace("http", "ws") + "/v1/stream"
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(connect(address, proxy=None)) for _ in range(IDLE)]
        load = await run_clients(running.address, jobs, 4, 2.0)
        for each in sockets:
            await asyncio.wait_for(each.wait_closed(), TIMEOUT)
        codes = Counter(str(each.close_code) for each in sockets)
    text = f"closed with {describe(codes)}; others meanwhile: {describe(load.outcomes)}"
    return set(codes) == {"1008"} and set(load.outcomes) == {"200"}, text


async def garbage(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """Random bytes as videos, as forms, as HTTP and as messages of a WebSocket."""
    rng, outcomes = random.Random(0), Counter[str]()
    kinds = ["video/mp4", "application/octet-stream", "multipart/form-data; boundary=x", "text/plain"]
    async with httpx.AsyncClient(base_url=running.address, timeout=TIMEOUT, trust_env=False) as client:
        for number in range(GARBAGE):
            data = rng.randbytes(rng.randrange(20_000))
            if number % 10 == 0:
                outcomes[await _garbage_socket(running, data)] += 1
            elif number % 10 == 1:
                outcomes[await _garbage_stream(running, data, ("images", "video")[number // 10 % 2])] += 1
            else:
                route = ("predict", "timeline", "explain")[number % 3]
                headers = {"Content-Type": kinds[number % 4]}
                response = await client.post(f"/v1/{route}", content=data, headers=headers)
                outcomes[str(response.status_code)] += 1
    allowed = {"400", "415", "422", "HTTP 400", "closed", "stream 1008"}
    return set(outcomes) <= allowed, describe(outcomes)


async def _garbage_socket(running: ServiceProcess, data: bytes) -> str:
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03" + data + b"\r\n\r\n")
    line = b""
    with contextlib.suppress(ConnectionResetError):
        line = await asyncio.wait_for(reader.readline(), TIMEOUT)
    writer.close()
    return f"HTTP {line.split(b' ')[1].decode()}" if line else "closed"


async def _garbage_stream(running: ServiceProcess, data: bytes, kind: str) -> str:
    address = running.address.replace("http", "ws") + "/v1/stream"
    async with connect(address, proxy=None) as websocket:
        with contextlib.suppress(WebSocketException):
            for message in (json.dumps({"format": kind}), data, '{"end": true}'):
                await websocket.send(message)
        await asyncio.wait_for(websocket.wait_closed(), TIMEOUT)
        return f"stream {websocket.close_code}"


async def all_kinds(running: ServiceProcess, jobs: list[Job]) -> Outcome:
    """Right and wrong requests to all routes; some clients go away before the answer."""
    rng, outcomes = random.Random(1), Counter[str]()

    async def request(client: httpx.AsyncClient, number: int) -> None:
        route = ("predict", "timeline", "explain")[number % 3]
        data = rng.choice(jobs).data
        data = data[: len(data) // 2] if number % 7 == 0 else data
        timeout = 0.01 if number % 5 == 0 else TIMEOUT
        try:
            response = await client.post(f"/v1/{route}", files={"file": data}, timeout=timeout)
            outcomes[str(response.status_code)] += 1
        except httpx.TransportError:
            outcomes["gone" if timeout < 1 else "lost"] += 1

    async with httpx.AsyncClient(base_url=running.address, trust_env=False) as client:
        for start in range(0, ALL_KINDS, 20):
            await asyncio.gather(*(request(client, number) for number in range(start, start + 20)))
    return set(outcomes) <= {"200", "422", "gone"}, describe(outcomes)


async def terminated(checkpoint: str, folder: Path, jobs: list[Job]) -> Outcome:
    """All that was accepted is answered; later requests are refused."""
    running = ServiceProcess(checkpoint, folder)
    task = asyncio.create_task(run_clients(running.address, jobs, 16, 4.0))
    await asyncio.sleep(2.0)
    code = await asyncio.to_thread(running.end, signal.SIGTERM)
    load: Load = await task
    left = list(folder.iterdir())
    refused = load.outcomes.pop("connection closed", 0)  # the address is gone
    text = f"exit code {code}; {describe(load.outcomes)}, {load.wrong} wrong; later refused; {len(left)} folders left"
    return code == 143 and set(load.outcomes) <= {"200", "503"} and not load.wrong and not left and refused > 0, text


async def killed(checkpoint: str, folder: Path, jobs: list[Job]) -> Outcome:
    """Clients see closed connections; the next start removes the files, and answers."""
    running = ServiceProcess(checkpoint, folder)
    task = asyncio.create_task(run_clients(running.address, jobs, 16, 3.0))
    await asyncio.sleep(2.0)
    os.kill(running.process.pid, signal.SIGKILL)
    await asyncio.to_thread(running.process.wait, TIMEOUT)
    load = await task
    left = len(list(folder.iterdir()))
    with service(checkpoint, folder) as restarted:
        again = await run_clients(restarted.address, jobs, 4, 2.0)
        folders = len(list(folder.iterdir()))
    after = len(list(folder.iterdir()))
    text = (
        f"{describe(load.outcomes)}; {left} folder left, {folders} after the restart, {after} after its end; "
        f"then {describe(again.outcomes)}"
    )
    fine = set(load.outcomes) <= {"200", "connection closed"} and (left, folders, after) == (1, 1, 0)
    return fine and set(again.outcomes) == {"200"} and not load.wrong + again.wrong, text
