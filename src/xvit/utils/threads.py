"""How many threads compute: as many as the process has cores, counting containers' quotas; one for small models.

The command line chooses them for its own process (`configure`). A program that imports xvit keeps its own choice.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Measured on 2 busy cores with waiting threads asleep: one thread is faster up to 10 M multiply-adds per frame, two are
# from 95 M on.
SMALL_MODEL_MACS = 50_000_000

_USER_CHOICE = os.environ.get("OMP_NUM_THREADS", "")  # `configure` replaces it
_automatic = False  # whether `limit_threads` may lower the number


def sleep_while_waiting() -> None:
    """Let waiting threads sleep: by default they spin, which takes the cores from other work.

    To be called before torch is imported. A user's OMP_WAIT_POLICY is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # GNU and LLVM OpenMP
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel OpenMP


def configure(threads: int | None) -> None:
    """Set the number of threads of torch, numpy and the runtimes of exported models in this process.

    Args:
        threads: the number; None for the user's OMP_NUM_THREADS, or else that of the available cores, of which small
            models then use one.
    """
    global _automatic
    given = _first_number(_USER_CHOICE)
    _automatic = threads is None and given is None
    threads = threads or given or available_cores()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # which reads the variable when it is imported
        sys.modules["torch"].set_num_threads(threads)


def current() -> int:
    """The number of threads that computations of this process use; also before torch is imported."""
    if "torch" in sys.modules:
        number: int = sys.modules["torch"].get_num_threads()
        return number
    given = _first_number(os.environ.get("OMP_NUM_THREADS", ""))
    return given or available_cores()


def _first_number(text: str) -> int | None:
    """The number in OMP_NUM_THREADS, or the first of a list for nested regions; None if there is none above 0."""
    found = re.match(r"\s*0*([1-9]\d*)", text)
    return int(found[1]) if found else None


def limit_threads(macs_per_frame: int) -> None:
    """Compute with one thread if the model is small and the user has not chosen a number."""
    if _automatic and macs_per_frame < SMALL_MODEL_MACS:
        import torch

        torch.set_num_threads(1)


def available_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: its CPU affinity, and the smallest quota of its cgroups, rounded down.

    Args:
        root: of the file system that holds proc and the cgroups.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(int(min([cores, *_cgroup_quotas(root)])), 1)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of the cgroups of this process and of all that they are in."""
    own_paths: dict[str, str] = {}  # by controller; "" for version 2
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own_paths |= dict.fromkeys(controllers.split(","), path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        mounted, mount_point = (_unescape(field) for field in mount.split(" ")[3:5])
        kind, *_, options = system.split(" ")
        controller = "cpu" if kind == "cgroup" and "cpu" in options.split(",") else ""
        if kind == "cgroup2" or controller:
            top = root / mount_point.lstrip("/")
            inner = os.path.relpath(own_paths.get(controller, "/"), mounted)
            if inner.startswith(".."):  # outside of what is mounted, as in a container without a cgroup namespace
                inner = "."
            for directory in (top / inner, *(top / inner).parents):
                yield from _quota(directory)
                if directory == top:
                    break


def _quota(directory: Path) -> Iterator[float]:
    """The quota of one cgroup, if it has one: microseconds of processor time per period."""
    words = _read(directory / "cpu.max").split() or [
        *_read(directory / "cpu.cfs_quota_us").split(),
        *_read(directory / "cpu.cfs_period_us").split(),
    ]
    if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):  # not "max" or -1
        yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # other systems than Linux; a cgroup that ends
        return ""


def _unescape(text: str) -> str:
    r"""A path of mountinfo, which writes a space as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
