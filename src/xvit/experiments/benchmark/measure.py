"""Time, memory and multiply-adds of the models in one group: one backbone, number of frames, precision and mode.

Time and memory are measured apart: memory in a process of its own for each model, time in this process, in rounds in
which the models take turns, so that a machine that slows down slows all of them.
"""

import ctypes
import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xvit.experiments.benchmark.peers import IMAGE_MODEL, MODELS, build_model
from xvit.experiments.benchmark.ratios import Ratio, ratio_of
from xvit.utils.errors import XViTError, is_out_of_memory
from xvit.utils.timing import interleaved_rounds
from xvit.utils.workers import Killed, WorkerPool

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MEMORY_RUNS = 2
# glibc's option for the smallest block that gets pages of its own, which return to the system once it is freed.
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 65536
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


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When the rounds of a group end: once the interval of each ratio is narrow, or at the time limit.

    Args:
        margin: the interval of each ratio shall lie within this many percent of the ratio.
        seconds: time limit. The round in progress is finished, and there is at least one.
    """

    margin: float
    seconds: float


def measure_models(names: Sequence[str], settings: GroupSettings, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Everything about the models of a group but their times.

    Args:
        names: keys of `MODELS` that support the group's number of frames.
        settings: settings of the group.
        on_step: called with a description of each step before it starts.

    Returns:
        The group as it is saved in benchmark.json, without rounds.
    """
    models = {}
    for name in names:
        on_step(f"memory of {name}")
        models[name] = count(name, settings.backbone, settings.frames) | {
            "seconds": [],
            "peak_bytes": measure_peak_bytes(name, settings),
        }
    empty = measure_peak_bytes("", settings)
    return {"setting": asdict(settings), "wall_seconds": 0.0, "empty_bytes": empty, "models": models}


def add_rounds(group: dict[str, Any], settings: GroupSettings, limits: Limits, on_step: Callable[[str], None]) -> None:
    """Time the models of a group in rounds, after those that it has, until the limits are reached.

    Each round is added to the group once it is complete: after an exception, Ctrl-C among them, it has those before.
    """
    on_step("building the models")
    models = group["models"]
    steps = {name: make_step(name, _build(name, settings), settings) for name in models}
    on_step("first round, not timed")
    start = time.perf_counter()
    before, rounds = group["wall_seconds"], interleaved_rounds(steps)
    next(rounds)
    added: list[dict[str, float]] = []
    try:
        with _collection_between_rounds():
            for seconds in rounds:
                added.append(seconds)
                gc.collect(1)
                ratios = time_ratios(
                    {name: models[name]["seconds"] + [each[name] for each in added] for name in models}
                )
                left = limits.seconds - (time.perf_counter() - start)
                on_step(_describe_round(ratios, len(added), left))
                if left <= 0 or all(ratio.margin <= limits.margin for ratio in ratios.values()):
                    break
    finally:
        for name, model in models.items():
            model["seconds"] += [seconds[name] for seconds in added]
        group["wall_seconds"] = before + time.perf_counter() - start


def time_ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """The ratio of each model's time to the image model's, from their seconds in the same rounds."""
    reference = seconds[IMAGE_MODEL]
    return {name: ratio_of(values, reference) for name, values in seconds.items() if name != IMAGE_MODEL}


def widest(ratios: Mapping[str, Ratio]) -> str:
    """The widest interval as text, such as "±2.1 % (VideoMAE)"."""
    name = max(ratios, key=lambda name: ratios[name].margin, default="")
    if not name or ratios[name].low is None:
        return "none"
    return f"±{ratios[name].margin:.2g} % ({name})"


def _describe_round(ratios: Mapping[str, Ratio], number: int, seconds_left: float) -> str:
    minutes, seconds = divmod(max(round(seconds_left), 0), 60)
    return f"round {number}, at most {minutes}:{seconds:02} left, widest interval: {widest(ratios)}"


@contextmanager
def _collection_between_rounds() -> Iterator[None]:
    """No garbage collection within steps: with the objects of these libraries it would delay some of them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _build(name: str, settings: GroupSettings) -> nn.Module:
    dtype = DTYPES[settings.precision]
    torch.set_default_dtype(dtype)  # a conversion after building would need the memory of both copies
    try:
        model = build_model(name, backbone=settings.backbone, frames=settings.frames)
    finally:
        torch.set_default_dtype(torch.float32)
    model = model.to(settings.device, dtype).train(settings.mode == "training")
    return torch.compile(model) if settings.compiled else model  # type: ignore[return-value]


def _image_size(name: str, backbone: str) -> int:
    """Pixels per side of this model's frames."""
    backbone_config: Any = timm.get_pretrained_cfg(backbone)
    return MODELS[name].image_size or int(backbone_config.input_size[-1])


def _random_clips(name: str, settings: GroupSettings) -> Tensor:
    """A batch of random clips (B, T, 3, H, W) for this model."""
    size = _image_size(name, settings.backbone)
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


def _synchronize(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))


@lru_cache
def count(name: str, backbone: str, frames: int) -> dict[str, int]:
    """Parameters, and multiply-adds per clip, counted on the meta device, where nothing is computed."""
    with torch.device("meta"):
        model = build_model(name, backbone=backbone, frames=frames).eval()
        clip = torch.empty(1, frames, 3, *[_image_size(name, backbone)] * 2)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(clip)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "macs": int(counter.get_total_flops()) // 2}


def measure_peak_bytes(name: str, settings: GroupSettings) -> list[int]:
    """Peak memory of one step, in a separate process for each of several runs.

    In these processes glibc returns freed memory to the system at once, so that the peak is that of the memory in use,
    and runs agree to about 0.05 %. Otherwise it depends on what the allocator keeps, which varies by several percent.
    An empty name measures a process without a model.

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
    return peaks


def _run_and_get_peak(name: str, settings: GroupSettings) -> int | Killed:
    try:
        return _get_peak(name, settings)
    except Exception as error:
        if is_out_of_memory(error):
            return Killed(f"ended with {type(error).__name__}")
        raise


def _get_peak(name: str, settings: GroupSettings) -> int:
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    torch.set_num_threads(settings.threads)
    if name:
        step = make_step(name, _build(name, settings), settings)
        gc.collect()
        step()
    if torch.device(settings.device).type == "cuda":
        return torch.cuda.max_memory_allocated(settings.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
