"""Choosing the device that a model runs on."""

import torch

from xvit.utils import distributed
from xvit.utils.errors import XViTError


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU. With several processes, each gets the device of its local rank."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    if distributed.world_size() > 1:
        return torch.device(accelerator.type, distributed.local_rank())
    return accelerator


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name, or the default one for None.

    Raises:
        XViTError: the device is not available on this machine.
    """
    if device is None:
        return default_device()
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise XViTError(f"device={str(device)!r} is not available: {str(error).splitlines()[0]}") from None
