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
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from xvit.batch.job import compute_parts
from xvit.batch.output import Part
from xvit.batch.tasks import Task, Worker
from xvit.utils.errors import XViTError, import_optional, one_line

_CALLS_PER_ACTOR, _MAX_PARTS_PER_CALL = 4, 16  # few calls have few pauses, in which the next videos are decoded


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
                cannot load the model, or loads another one.
        """
        ray = import_optional("ray", extra="ray")
        data = import_optional("ray.data", extra="ray")
        arrow = import_optional("pyarrow", extra="ray")
        if not parts:
            return
        cpus = max(getattr(task, "num_workers", 1), 1)
        with _session(ray, self.address):
            size = min(self.actors or _room(ray, cpus, self.gpus_per_actor), len(parts))
            items = [{"number": part.number, "first": part.first, "paths": _pack(part.paths)} for part in parts]
            per_call = min(max(len(parts) // (_CALLS_PER_ACTOR * size), 1), _MAX_PARTS_PER_CALL)
            rows = data.from_items(items, override_num_blocks=math.ceil(len(items) / per_call)).map_batches(
                _Actor,
                fn_constructor_args=(task, worker.describe(), folder),
                batch_size=per_call,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(size=size),
                num_cpus=cpus,
                num_gpus=self.gpus_per_actor or None,
            )
            done = set[int]()
            with _actor_errors(ray):
                for row in rows.iter_rows():
                    if row["number"] in done:  # from a call that was begun again on another node
                        continue
                    done.add(row["number"])
                    yield int(row["number"]), arrow.ipc.open_stream(io.BytesIO(row["table"])).read_all()


class _Actor:
    """Computes parts, in a process of the cluster."""

    def __init__(self, task: Task, expected: dict[str, Any], folder: str) -> None:
        self.worker, self.folder = task.open(), folder
        if self.worker.describe() != expected:
            raise XViTError(f"host {os.uname().nodename}: the model there is another one than that of the job")

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        arrow = import_optional("pyarrow", extra="ray")
        rows = zip(batch["number"], batch["first"], batch["paths"], strict=True)
        parts = [Part(number=int(number), first=int(first), paths=_unpack(paths)) for number, first, paths in rows]
        for number, table in compute_parts(self.worker, parts, self.folder):
            buffer = io.BytesIO()
            with arrow.ipc.new_stream(buffer, table.schema) as stream:
                stream.write_table(table)
            yield {"number": [number], "table": [buffer.getvalue()]}


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
    try:
        ray.init(address=address or "local", **({} if address else {"include_dashboard": False}), **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise XViTError(f"--address {address}: no Ray cluster there: {one_line(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many actors the nodes have room for."""
    rooms = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            by_gpu = math.floor(resources.get("GPU", 0) / gpus) if gpus else math.inf
            rooms.append(min(math.floor(resources.get("CPU", 0) / cpus), by_gpu))
    if not sum(rooms):
        needs = f"{cpus} CPUs (--num-workers)" + (f" and {gpus:g} GPUs (--gpus-per-actor)" if gpus else "")
        raise XViTError(f"no node of the Ray cluster has room for an actor, which needs {needs}")
    return int(sum(rooms))


@contextmanager
def _actor_errors(ray: Any) -> Iterator[None]:
    """Report what an actor raised as if this process had raised it."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, XViTError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise XViTError(f"the Ray cluster could not compute the parts: {one_line(error, length=1000)}") from None
        raise XViTError(str(cause)) from None
