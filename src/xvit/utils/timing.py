"""Fair timing of models against each other."""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import torch


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    return sum(os.times()[:4])


def interleaved_rounds(functions: Mapping[str, Callable[[], object]]) -> Iterator[dict[str, float]]:
    """Time functions in rounds without end. In each round all functions are called once, in a new random order.

    A slowdown of the machine affects all of them, and none always follows the same other one, which leaves the caches
    filled and the processor warm in its own way. The orders are the same in each call.

    Args:
        functions: the functions by name. On a GPU they must wait for it themselves.

    Yields:
        Seconds of each function in this round.
    """
    rng = random.Random(0)
    while True:
        order = rng.sample(list(functions), len(functions))
        seconds = {}
        for name in order:
            start = time.perf_counter()
            functions[name]()
            seconds[name] = time.perf_counter() - start
        yield {name: seconds[name] for name in functions}


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time functions in a fixed number of rounds; see `interleaved_rounds`.

    Args:
        functions: the functions by name.
        rounds: how often each function is called and timed.
        warm_up: untimed rounds before.

    Returns:
        Seconds of each function, one value per round.
    """
    measured = list(islice(interleaved_rounds(functions), warm_up, warm_up + rounds))
    return {name: [seconds[name] for seconds in measured] for name in functions}


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch with one thread: small models gain little from more, and lose much when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
