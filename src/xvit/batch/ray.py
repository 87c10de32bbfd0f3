"""Running a job on a Ray cluster, with Ray Data.

Paths travel to the actors, rows travel back; this process writes the parts. An actor holds a model, on a CPU or on its
share of a GPU, and decodes the videos itself. What a lost node or a killed actor had begun is computed again by another
one; what a decoder that crashes takes with it is a process of the actor, so that one video cannot end the job.
"""

import io
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xvit.batch.job import compute_parts
from xvit.batch.output import Part
from xvit.batch.tasks import Task, Worker
from xvit.utils.addresses import VARIABLE, allow_remote
from xvit.utils.errors import XViTError, import_optional, one_line

_CALLS_PER_ACTOR, _MAX_PARTS_PER_CALL = 4, 16  # few calls have few pauses, in which the next videos are decoded
_CONNECT_TIMEOUT = 10  # seconds

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
class RayRunner:
    """A runner for `xvit.batch.run_job`.

    Args:
        address: of the cluster, such as auto or ray://host:10001; None starts one on this machine for the job.
        actors: number of actors; as many as the cluster has room for if None.
        gpus_per_actor: 1 for a GPU each, 0.5 for two actors on a GPU, 0 for none.
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float = 0.0

    def __call__(
        self, task: Task, worker: Worker, parts: Sequence[Part], folder: str
    ) -> Generator[tuple[int, Any], None, None]:
        """Compute parts on the cluster, in any order.

        Raises:
            XViTError: Ray is not installed, there is no such cluster, or no node of it has room for an actor; an actor
                cannot load the model, or loads another one; `num_workers` is 0: a video that kills the process that
                decodes it would kill one actor after another.
        """
        ray = import_optional("ray", extra="ray")
        data = import_optional("ray.data", extra="ray")
        arrow = import_optional("pyarrow", extra="ray")
        if not parts:
            return
        if (cpus := getattr(task, "num_workers", 1)) < 1:
            raise XViTError(f"--num-workers {cpus}: an actor on Ray needs at least 1, so that a video cannot kill it")
        with _session(ray, self.address):
            room = _room(ray, cpus, self.gpus_per_actor)
            if not room:
                needs = f"{cpus} CPUs (--num-workers)"
                needs += f" and {self.gpus_per_actor:g} GPUs (--gpus-per-actor)" if self.gpus_per_actor else ""
                text = f"no node of the Ray cluster has room for an actor, which needs {needs}"
                if not self.actors:
                    raise XViTError(text)
                _logger.warning("%s: waiting for one", text)  # which an autoscaler may start
            size = min(self.actors or room, len(parts))
            items = [{"number": part.number, "first": part.first, "paths": _pack(part.paths)} for part in parts]
            per_call = min(max(len(parts) // (_CALLS_PER_ACTOR * size), 1), _MAX_PARTS_PER_CALL)
            rows = data.from_items(items, override_num_blocks=math.ceil(len(items) / per_call)).map_batches(
                _Actor,
                fn_constructor_args=(
                    _with_absolute_path(task),
                    worker.describe(),
                    folder,
                    os.environ.get(VARIABLE, ""),
                ),
                batch_size=per_call,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(size=size),
                num_cpus=cpus,
                num_gpus=self.gpus_per_actor or None,
            )
            done = set[int]()
            try:
                for row in rows.iter_rows():
                    if row["error"]:
                        raise XViTError(row["error"])
                    if row["number"] in done:  # from a call that was begun again on another node
                        continue
                    done.add(row["number"])
                    yield int(row["number"]), arrow.ipc.open_stream(io.BytesIO(row["table"])).read_all()
            except ray.exceptions.RayError as error:
                reason = one_line(error, length=1000)
                raise XViTError(f"the Ray cluster could not compute the parts: {reason}") from None


class _Actor:
    """Computes parts, in a process of the cluster."""

    def __init__(self, task: Task, expected: dict[str, Any], folder: str, allowed: str) -> None:
        self.folder, self.error = folder, ""
        allow_remote(allowed)
        try:
            self.worker = task.open()
            if self.worker.describe() != expected:
                raise XViTError("the model there is another one than that of the job")
        except XViTError as error:  # reported by a row: Ray would print pages about an actor that raises it
            self.error = f"host {os.uname().nodename}: {error}"

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        rows = zip(batch["number"], batch["first"], batch["paths"], strict=True)
        parts = [Part(number=int(number), first=int(first), paths=_unpack(paths)) for number, first, paths in rows]
        try:
            for number, table in [] if self.error else compute_parts(self.worker, parts, self.folder):
                yield {"number": [number], "table": [_to_bytes(table)], "error": [""]}
        except XViTError as error:
            self.error = f"host {os.uname().nodename}: {error}"
        if self.error:
            yield {"number": [parts[0].number], "table": [b""], "error": [self.error]}


def _to_bytes(table: Any) -> bytes:
    arrow = import_optional("pyarrow", extra="ray")
    buffer = io.BytesIO()
    with arrow.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


def _with_absolute_path(task: Task) -> Task:
    """The task, with the path of its model from any working directory: that of an actor is another one."""
    checkpoint = getattr(task, "checkpoint", "")
    return replace(task, checkpoint=os.path.abspath(checkpoint)) if os.path.exists(checkpoint) else task  # type: ignore[type-var]


def _pack(paths: Sequence[str]) -> bytes:
    return b"\0".join(map(os.fsencode, paths))


def _unpack(data: bytes) -> list[str]:
    return [os.fsdecode(path) for path in data.split(b"\0")]


@contextmanager
def _session(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a cluster on this machine; none of Ray's own output."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its own files have all of it
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray sets a handler of its own
    if address:
        _check_reachable(address)
    try:
        ray.init(address=address or "local", **({} if address else {"include_dashboard": False}), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        hint = "" if address in (None, "auto") else "; one with token authentication needs RAY_AUTH_MODE=token"
        raise XViTError(f"--address {address}: no Ray cluster there: {one_line(error)}{hint}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # each part travels back when it is done, not with all parts of the call
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `XViTError` if nothing listens at a host and port: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdecimal():  # auto, or left to Ray
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise XViTError(f"--address {address}: no Ray cluster there: {one_line(error)}") from None


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many actors the nodes have room for."""
    rooms = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            by_gpu = math.floor(resources.get("GPU", 0) / gpus) if gpus else math.inf
            rooms.append(min(math.floor(resources.get("CPU", 0) / cpus), by_gpu))
    return int(sum(rooms))
