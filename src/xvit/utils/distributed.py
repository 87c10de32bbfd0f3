"""The processes of one run, as torchrun or accelerate launch start them; without those there is one.

What they tell each other here goes from CPU to CPU (gloo): no GPU at work is waited for.
"""

import os
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def world_size() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which one this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


def uses_cpu() -> bool:
    """Whether they compute on CPUs, which accelerate wants to be told."""
    import torch

    return world_size() > 1 and not torch.accelerator.is_available()


def all_gather(value: T) -> list[T]:
    """What each process gives, in their order, in all of them. Each must call it."""
    if world_size() == 1:
        return [value]
    import torch.distributed

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value, group=_group())
    return values


def all_reduce_max(*values: int) -> tuple[int, ...]:
    """The largest that any process gives, of each of some numbers, in all of them: how they agree."""
    if world_size() == 1:
        return values
    import torch
    import torch.distributed

    numbers = torch.tensor([int(value) for value in values])
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group=_group())
    return tuple(numbers.tolist())


def barrier() -> None:
    """Go on when all are here."""
    all_gather(None)


@cache
def _group() -> Any:
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=uses_cpu())  # joins the others
    return torch.distributed.new_group(backend="gloo")
