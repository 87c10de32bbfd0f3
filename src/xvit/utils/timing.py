"""Honest timing of models side by side."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch


def interleaved(steps: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Time steps that take turns, so that a machine that slows down slows all of them.

    Args:
        steps: what is called, by name. On a GPU they must wait for it themselves.
        rounds: times that each is called and timed.
        warm_up: rounds before, which do not count.

    Returns:
        Seconds of each step, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(warm_up + rounds):
        first = turn % len(names)  # no step is always the first
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            steps[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """Small models gain little from threads, which wait for each other: beside other work they lose a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
