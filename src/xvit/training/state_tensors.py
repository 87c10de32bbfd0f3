"""The tensors in a saved state of a run: weights, optimizer state, averaged weights, random states."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch.optim import Optimizer

from xvit.models.xvit import XViT
from xvit.training.sharding import load_whole_state_dict, whole_state_dict
from xvit.utils import distributed

MODEL = "model.safetensors"
_EMA_MODEL, _OPTIMIZER = "ema_model.safetensors", "optimizer.bin"


@dataclass(frozen=True, kw_only=True)
class StateTensors:
    """What a saved state holds the tensors of.

    Args:
        accelerator: saves the random states of each process, and what it has prepared: the model and the optimizer,
            unless they are sharded.
        model: the model as it was built, before accelerate wrapped it.
        optimizer: its optimizer.
        ema_model: the averaged weights, if there are any.
        sharded: whether the parameters are divided among the processes; the files hold whole tensors all the same.
    """

    accelerator: Accelerator
    model: XViT
    optimizer: Optimizer
    ema_model: ModelEmaV3 | None
    sharded: bool

    # torch.distributed.checkpoint is imported where it is needed: it takes 0.1 s, of each training.

    def save(self, directory: Path) -> None:
        """Write all tensors. All processes must call it; the main process writes all but the random states."""
        self.accelerator.save_state(str(directory))
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

            weights = whole_state_dict(self.model)
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            optimizer_state = get_optimizer_state_dict(self.model, self.optimizer, options=options)
            if distributed.is_main():
                save_file(weights, directory / MODEL)
                torch.save(optimizer_state, directory / _OPTIMIZER)
        if self.ema_model is not None:  # not through accelerate, which would load it as a pickle
            averaged = whole_state_dict(self.ema_model)
            if distributed.is_main():
                save_file(averaged, directory / _EMA_MODEL)

    def load(self, directory: Path) -> None:
        """Read all tensors. All processes must call it. Raises some error if a file is damaged."""
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

            load_whole_state_dict(self.model, load_file(directory / MODEL))
            optimizer_state = torch.load(directory / _OPTIMIZER, map_location="cpu", weights_only=True)
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.model, self.optimizer, optimizer_state, options=options)
        if self.ema_model is not None:
            load_whole_state_dict(self.ema_model, load_file(directory / _EMA_MODEL))
        # Last, because on GPUs the first DTensor made of a whole tensor gives all processes the same random state.
        self.accelerator.load_state(str(directory), load_kwargs={"weights_only": True})
