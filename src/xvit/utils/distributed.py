"""The processes of one run, as started by torchrun or accelerate launch; otherwise there is one process.

Values are exchanged between CPUs (gloo), not by accelerate's `gather_object`, whose NCCL waits for the GPUs' work.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from xvit.utils.errors import XViTError

_LAUNCHER_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
_LIBRARIES = ("gloo", "NCCL")  # which exchange values; in the messages of their errors, with one of these:
_TIMED_OUT = ("timed out", "timeout")
_PEER_ENDED = ("closed by peer", "reset by peer", "broken pipe", "ncclremoteerror")

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Index of this process, from 0."""
    return int(os.environ.get("RANK") or 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Index of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or 0) if world_size() > 1 else 0


def check_environment() -> str:
    """Remove the variables of a launcher unless they describe several processes: accelerate reads them, too.

    Returns:
        What is wrong with them; empty if nothing is.
    """
    given = {name: text for name in _LAUNCHER_VARIABLES if (text := os.environ.get(name, "").strip())}
    wrong = [f"{name}={text!r}: expected a whole number" for name, text in given.items() if not text.isdecimal()]
    if not wrong and int(given.get("WORLD_SIZE", 1)) > 1:
        size = int(given["WORLD_SIZE"])
        if missing := [name for name in _LAUNCHER_VARIABLES if name not in given]:
            wrong = [f"WORLD_SIZE={size}, but {' and '.join(missing)} not set"]
        elif int(given["RANK"]) < size:
            return ""
        else:
            wrong = [f"RANK={given['RANK']}: expected a number below WORLD_SIZE={size}"]
    for name in _LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    return f"{wrong[0]}; torchrun sets it, a single process needs it unset" if wrong else ""


def is_main() -> bool:
    """Whether this is the main process, which writes and prints."""
    return rank() == 0


def uses_cpu() -> bool:
    """Whether several processes compute on CPUs, which has to be passed to accelerate."""
    import torch

    return world_size() > 1 and not torch.accelerator.is_available()


def all_gather(value: T) -> list[T]:
    """The values of all processes, by rank. All processes must call it.

    Raises:
        XViTError: another process has ended, or does not answer.
    """
    if world_size() == 1:
        return [value]
    import torch.distributed

    values: list[Any] = [None] * world_size()
    group = _cpu_group()
    with peer_errors():
        torch.distributed.all_gather_object(values, value, group=group)
    return values


def barrier() -> None:
    """Wait until all processes have reached this point."""
    all_gather(None)


@contextmanager
def peer_errors() -> Iterator[None]:
    """Report an exchange that failed because of another process in one line. The other process prints the cause."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(name in text for name in _LIBRARIES):
            raise
        if any(words in text.lower() for words in _TIMED_OUT):
            raise XViTError("timeout: another process of this run does not answer; it may hang") from None
        if any(words in text.lower() for words in _PEER_ENDED):
            raise XViTError("another process of this run has ended; see its error") from None
        raise


@cache
def _cpu_group() -> Any:  # a torch.distributed.ProcessGroup; torch is imported only where it is needed
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=uses_cpu())  # initialises torch.distributed
    group = torch.distributed.new_group(backend="gloo")
    # gloo's threads can abort a process at its exit if they are still running
    atexit.register(torch.distributed.destroy_process_group, None if uses_cpu() else group)
    return group
