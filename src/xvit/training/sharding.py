"""Weights, gradients and optimizer states divided among the processes of a run (FSDP2), for large backbones.

              process 0      process 1
at rest       W[:n/2]        W[n/2:]        each parameter is cut along its first dimension
in a block    W              W              gathered before the block computes, dropped after it
gradients     G[:n/2]        G[n/2:]        summed over the processes after each batch

torch's `fully_shard` is called directly. accelerate (1.15) calls it on GPUs only, and stores states as pickles.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from xvit.config import TrainConfig
from xvit.models.xvit import XViT
from xvit.utils import distributed
from xvit.utils.errors import XViTError


def check_sharding(config: TrainConfig) -> None:
    """Raise `XViTError` if sharding does not go together with another setting, or there is only one process."""
    if config.sharding == "none":
        return
    if distributed.world_size() == 1:
        raise XViTError("train.sharding='fsdp' divides the weights among processes: start several with torchrun")
    conflicts = {
        "train.optimizer='muon'": (config.optimizer == "muon", "its steps need whole matrices; use adamw or sgd"),
        "train.precision='fp16'": (config.precision == "fp16", "use bf16 or fp32"),
        "train.compile=true": (config.compile, "use false"),
    }
    for setting, (is_set, advice) in conflicts.items():
        if is_set:
            raise XViTError(f"{setting}: not supported with train.sharding='fsdp': {advice}")


def shard(model: XViT) -> None:
    """Divide the parameters of a model among all processes, each block for itself. From then on they are `DTensor`s."""
    mesh = init_device_mesh(model.device.type, (distributed.world_size(),))
    for block in model.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy the weights of a sharded model into one that is not. All processes must call it."""
    targets = target.state_dict()
    for name, tensor in source.state_dict().items():
        targets[name].copy_(whole_tensor(tensor))


def whole_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The `state_dict` of a module, with whole tensors on the CPU in the main process if it is sharded.

    All processes must call it.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        whole = whole_tensor(tensor)
        if distributed.is_main():  # one at a time, so that a GPU need not hold all of them
            state[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return state


def load_whole_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `whole_state_dict` returned into a module that is sharded or not. Each process needs all of it.

    Raises:
        KeyError: a tensor is missing.
    """
    for name, target in module.state_dict().items():
        whole = state[name].to(target.device)
        if isinstance(target, DTensor):  # src_data_rank=None: each process cuts out its own part
            whole = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(whole)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, whole. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
