"""Time, memory and multiply-adds of models side by side, in groups of one number of frames, precision and mode.

Within a group the models take turns, and a matrix multiplication with them: a machine that slows down slows them all.
Peak memory is that of a process of its own for each model, which starts from one that has imported all their libraries.
"""

import gc
import resource
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xvit.experiments.benchmark.entrants import ENTRANTS, OWN_IMAGE_SIZE, build
from xvit.utils.errors import XViTError
from xvit.utils.timing import interleaved

Mode = Literal["inference", "training"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_RATE = (1576, 768, 3072)  # rows, columns, inner: the first layer of ViT-B/16's MLP on 8 frames, 16 times in a row
_PRODUCTS = 16
_PEAKS = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a group of measurements has in common.

    Args:
        backbone: a timm model, of whose size all are that can be.
        frames: T.
        precision: fp32 or bf16, of weights and arithmetic.
        mode: inference, or training: forward, backward and an SGD step.
        batch_size: clips at a time.
        compiled: through torch.compile.
        device: where.
        threads: of torch on a CPU.
        rounds: turns of each model.
    """

    backbone: str
    frames: int
    precision: str
    mode: str
    batch_size: int
    compiled: bool
    device: str
    threads: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model in one group.

    Args:
        parameters: number of them.
        macs: multiply-adds of one clip through the model, forward.
        seconds: of a batch, in each round.
        peak_bytes: of the process, or of the accelerator's memory where it runs on one.
    """

    parameters: int
    macs: int
    seconds: list[float]
    peak_bytes: int


def measure(
    names: Sequence[str], setting: Setting, on_progress: Callable[[str], None]
) -> tuple[dict[str, Measured], list[float], int]:
    """Measure the models of a group.

    Args:
        names: of `ENTRANTS`, of those that take that number of frames.
        setting: of the group.
        on_progress: called with what is done next.

    Returns:
        The models by name; multiply-adds a second of the matrix multiplication in each round; peak memory of a process
        without a model, in bytes.
    """
    peaks = {}
    for name in names:
        on_progress(f"memory of {name}")
        peaks[name] = peak_bytes(name, setting)
    counts = {name: _counts(name, setting) for name in names}
    models = {}
    for name in names:
        on_progress(f"building {name}")
        models[name] = _built(name, setting)
    steps = {name: step_of(name, model, setting) for name, model in models.items()}
    on_progress(f"timing, {setting.rounds} rounds")
    seconds = interleaved(steps | {"": matrix_product(setting)}, rounds=setting.rounds)
    rate = [_PRODUCTS * _RATE[0] * _RATE[1] * _RATE[2] / second for second in seconds.pop("")]
    measured = {
        name: Measured(parameters=counts[name][0], macs=counts[name][1], seconds=seconds[name], peak_bytes=peaks[name])
        for name in names
    }
    return measured, rate, peak_bytes("", setting)


def _built(name: str, setting: Setting) -> nn.Module:
    torch.set_default_dtype(DTYPES[setting.precision])  # converted later, it would be in memory twice
    try:
        model = build(name, backbone=setting.backbone, frames=setting.frames)
    finally:
        torch.set_default_dtype(torch.float32)
    model = model.to(setting.device, DTYPES[setting.precision]).train(setting.mode == "training")
    return torch.compile(model) if setting.compiled else model  # type: ignore[return-value]


def _clips(name: str, setting: Setting, device: str) -> Tensor:
    size = OWN_IMAGE_SIZE if ENTRANTS[name].own_size else image_size(setting.backbone)
    return torch.zeros(
        setting.batch_size, setting.frames, 3, size, size, device=device, dtype=DTYPES[setting.precision]
    )


def image_size(backbone: str) -> int:
    """Height and width in pixels that a timm model was made for."""
    known: Any = timm.get_pretrained_cfg(backbone)
    return int(known.input_size[-1])


def step_of(name: str, model: nn.Module, setting: Setting) -> Callable[[], None]:
    """A step of the setting's mode through the model of that name, which waits for the device."""
    clips = _clips(name, setting, setting.device).normal_()
    if setting.mode == "inference":

        def step() -> None:
            with torch.inference_mode():
                model(clips)
            _wait(setting.device)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

        def step() -> None:
            model(clips).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait(setting.device)

    return step


def matrix_product(setting: Setting) -> Callable[[], None]:
    """Products of the size that a base model is made of."""
    rows, inner, columns = _RATE
    options: Mapping[str, Any] = {"device": setting.device, "dtype": DTYPES[setting.precision]}
    a, b = torch.randn(rows, inner, **options), torch.randn(inner, columns, **options)

    def step() -> None:
        with torch.inference_mode():
            for _ in range(_PRODUCTS):
                a @ b
        _wait(setting.device)

    return step


def _wait(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def _counts(name: str, setting: Setting) -> tuple[int, int]:
    """Parameters, and multiply-adds of a clip: counted on the meta device, which computes nothing."""
    with torch.device("meta"):
        model = build(name, backbone=setting.backbone, frames=setting.frames).eval()
        clip = _clips(name, replace(setting, batch_size=1, precision="fp32"), "meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(clip)
    return sum(p.numel() for p in model.parameters()), int(counter.get_total_flops()) // 2


def peak_bytes(name: str, setting: Setting) -> int:
    """Peak memory of a pass, or of two training steps, of a model in a process of its own: the least of several, which
    the allocator's moods have not touched. Of no name, that of the process without a model.

    Raises:
        XViTError: there is not enough.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["xvit.experiments.benchmark.libraries"])
    peaks = []
    for _ in range(_PEAKS):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                peaks.append(pool.submit(_peak_bytes, name, setting).result())
            except (BrokenProcessPool, torch.OutOfMemoryError, MemoryError) as error:
                raise XViTError(
                    f"{name}, {setting.mode}, T = {setting.frames}: not enough memory ({type(error).__name__}); leave "
                    "it out of --models, or take fewer --frames. What was measured before is kept"
                ) from None
    return min(peaks)


def _peak_bytes(name: str, setting: Setting) -> int:
    torch.set_num_threads(setting.threads)
    if not name:  # what a process needs without a model
        return _peak_so_far(setting)
    step = step_of(name, _built(name, setting), setting)
    gc.collect()
    for _ in range(2 if setting.mode == "training" else 1):
        step()
    return _peak_so_far(setting)


def _peak_so_far(setting: Setting) -> int:
    if torch.device(setting.device).type == "cuda":
        return torch.cuda.max_memory_allocated(setting.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
