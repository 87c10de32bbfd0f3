"""Fair timing of models against each other."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time functions in turns, so that a slowdown of the machine affects all of them.

    Args:
        functions: the functions by name. On a GPU they must wait for it themselves.
        rounds: how often each function is called and timed.
        warm_up: untimed rounds before.

    Returns:
        Seconds of each function, one value per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(warm_up + rounds):
        first = turn % len(names)  # each function is the first in turn
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            functions[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch with one thread: small models gain little from more, and lose much when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
