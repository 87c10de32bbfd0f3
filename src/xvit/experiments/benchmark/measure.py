"""Time, memory and multiply-adds of the models in one group: one number of frames, precision and mode.

The models of a group take turns, together with a matrix multiplication, so a machine that slows down slows all of them.
Peak memory is measured in a separate process for each model; all these processes have imported the same libraries.
"""

import gc
import math
import resource
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xvit.experiments.benchmark.peers import MODELS, build_model
from xvit.utils.errors import XViTError, is_out_of_memory
from xvit.utils.timing import time_interleaved
from xvit.utils.workers import Killed, WorkerPool

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The matrix multiplication: rows, inner size and columns of the first MLP layer of ViT-B/16 on 8 frames.
_MATMUL_SHAPE = (1576, 768, 3072)
_MATMULS_PER_STEP = 16
_MEMORY_RUNS = 2
# Imported by every process whose memory is measured; those of a library that is not installed are left out.
_PRELOADED = [
    "torchvision.models.video",
    "xvit.experiments.benchmark.measure",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("timesformer", "videomae", "vivit")),
]


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """The settings that all measurements of a group share; see `BenchmarkConfig`."""

    backbone: str
    frames: int
    precision: str
    mode: str
    batch_size: int
    compiled: bool
    device: str
    threads: int
    rounds: int


def measure_group(names: Sequence[str], settings: GroupSettings, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure the models of a group.

    Args:
        names: keys of `MODELS` that support the group's number of frames.
        settings: settings of the group.
        on_progress: called with a description of each step before it starts.

    Returns:
        The group as it is saved in benchmark.json; its "models" have the fields of `Measurement`.
    """
    peaks, counts, steps = {}, {}, {}
    for name in names:
        on_progress(f"memory of {name}")
        peaks[name] = measure_peak_bytes(name, settings)
    for name in names:
        on_progress(f"building {name}")
        counts[name] = _count(name, settings)
        steps[name] = make_step(name, _build(name, settings), settings)
    on_progress(f"timing, {settings.rounds} rounds")
    seconds = time_interleaved(steps | {"": make_matmul_step(settings)}, rounds=settings.rounds)
    matmul_macs = _MATMULS_PER_STEP * math.prod(_MATMUL_SHAPE)
    return {
        "setting": asdict(settings),
        "macs_per_second": [matmul_macs / value for value in seconds.pop("")],
        "empty_bytes": measure_peak_bytes("", settings),
        "models": {name: counts[name] | {"seconds": seconds[name], "peak_bytes": peaks[name]} for name in names},
    }


def _build(name: str, settings: GroupSettings) -> nn.Module:
    dtype = DTYPES[settings.precision]
    torch.set_default_dtype(dtype)  # a conversion after building would need the memory of both copies
    try:
        model = build_model(name, backbone=settings.backbone, frames=settings.frames)
    finally:
        torch.set_default_dtype(torch.float32)
    model = model.to(settings.device, dtype).train(settings.mode == "training")
    return torch.compile(model) if settings.compiled else model  # type: ignore[return-value]


def _random_clips(name: str, settings: GroupSettings) -> Tensor:
    """A batch of random clips (B, T, 3, H, W) for this model."""
    backbone_config: Any = timm.get_pretrained_cfg(settings.backbone)
    size = MODELS[name].image_size or int(backbone_config.input_size[-1])
    shape = (settings.batch_size, settings.frames, 3, size, size)
    return torch.zeros(shape, device=settings.device, dtype=DTYPES[settings.precision]).normal_()


def make_step(name: str, model: nn.Module, settings: GroupSettings) -> Callable[[], None]:
    """A function that runs the model once in the group's mode and waits for the device."""
    clips = _random_clips(name, settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6) if settings.mode == "training" else None

    def step() -> None:
        if optimizer is None:
            with torch.inference_mode():
                model(clips)
        else:
            model(clips).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        _synchronize(settings.device)

    return step


def make_matmul_step(settings: GroupSettings) -> Callable[[], None]:
    """A function that multiplies matrices of the size that occurs in a base model."""
    rows, inner, columns = _MATMUL_SHAPE
    device, dtype = settings.device, DTYPES[settings.precision]
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)

    def step() -> None:
        with torch.inference_mode():
            for _ in range(_MATMULS_PER_STEP):
                a @ b
        _synchronize(device)

    return step


def _synchronize(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def _count(name: str, settings: GroupSettings) -> dict[str, int]:
    """Parameters, and multiply-adds per clip, counted on the meta device, where nothing is computed."""
    with torch.device("meta"):
        model = build_model(name, backbone=settings.backbone, frames=settings.frames).eval()
        clip = _random_clips(name, replace(settings, batch_size=1, precision="fp32", device="meta"))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(clip)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "macs": int(counter.get_total_flops()) // 2}


def measure_peak_bytes(name: str, settings: GroupSettings) -> int:
    """Peak memory of one inference step, or of two training steps, in a separate process.

    The minimum of several runs is taken, because the allocator's overhead varies. An empty name measures a process
    without a model.

    Raises:
        XViTError: there is not enough memory.
    """
    get_context("forkserver").set_forkserver_preload(_PRELOADED)
    function = partial(_run_and_get_peak, settings=settings)
    peaks = []
    for _ in range(_MEMORY_RUNS):
        with closing(WorkerPool[str, int | Killed](function, 1, start_method="forkserver")) as pool:
            ((_, peak),) = pool.imap([name], window=1)
        if isinstance(peak, Killed):
            raise XViTError(
                f"{name}, {settings.mode}, T = {settings.frames}: not enough memory (the process {peak.how}). "
                "Leave the model out of --models, or use fewer --frames. Earlier measurements are saved"
            )
        peaks.append(peak)
    return min(peaks)


def _run_and_get_peak(name: str, settings: GroupSettings) -> int | Killed:
    try:
        return _get_peak(name, settings)
    except Exception as error:
        if is_out_of_memory(error):
            return Killed(f"ended with {type(error).__name__}")
        raise


def _get_peak(name: str, settings: GroupSettings) -> int:
    torch.set_num_threads(settings.threads)
    if name:
        step = make_step(name, _build(name, settings), settings)
        gc.collect()
        for _ in range(2 if settings.mode == "training" else 1):
            step()
    if torch.device(settings.device).type == "cuda":
        return torch.cuda.max_memory_allocated(settings.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
