"""Times and memory of models on an accelerator: a part of gpu.py."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import timm
import torch
from torch import Tensor, nn

from gpu_mixing import INFERENCE_ONLY, VARIANTS
from xvit import create_model
from xvit.experiments.benchmark.peers import MODELS, build_model
from xvit.models.streaming import Stream
from xvit.utils.intervals import median_interval
from xvit.utils.timing import time_interleaved

Step = Callable[[], object]
IMAGE_MODEL = "image model"
_LAUNCHES = 10
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def time_models(
    names: list[str],
    *,
    backbone: str,
    frames: int,
    batch_size: int,
    precision: str,
    training: bool,
    compiled: bool,
    rounds: int,
    device: str,
) -> dict[str, Any]:
    """Milliseconds of a step of each model, its ratio to the first one, and the memory of its step.

    Inference with bf16 has weights in bf16; training has weights in fp32 and autocast, as `xvit train`.
    """
    steps: dict[str, Step] = {}
    for name in names:
        model = build_model(name, backbone=backbone, frames=frames).to(device).train(training)
        if not training:
            model.to(PRECISIONS[precision])
        size = MODELS[name].image_size or int(timm.get_pretrained_cfg(backbone).input_size[-1])
        clips = torch.randn(batch_size, frames, 3, size, size, device=device)
        if compiled:
            model = torch.compile(model)
        make_step = _training_step if training else _inference_step
        steps[name] = make_step(model, clips, precision)
    setting = {"backbone": backbone, "frames": frames, "batch_size": batch_size, "precision": precision}
    setting |= {"mode": "training" if training else "inference", "compiled": compiled, "rounds": rounds}
    return {"setting": setting, "models": _measure(steps, device, rounds=rounds, clips=batch_size)}


def time_variants(
    *, backbone: str, frames: int, batch_size: int, rounds: int, device: str, training: bool
) -> dict[str, Any]:
    """The same of the image model with mixing, for each of `gpu_mixing.VARIANTS`, eager and in bf16."""
    size = int(timm.get_pretrained_cfg(backbone).input_size[-1])
    clips = torch.randn(batch_size, frames, 3, size, size, device=device)
    make_step = _training_step if training else _inference_step
    image = build_model(IMAGE_MODEL, backbone=backbone, frames=frames).to(device).train(training)
    models: dict[str, nn.Module] = {IMAGE_MODEL: image}
    expected = None
    for name, scheme in VARIANTS.items():
        if training and name in INFERENCE_ONLY:
            continue
        models[name] = model = build_model("xvit mixing alone", backbone=backbone, frames=frames).to(device).eval()
        for layer in model.attention_layers:
            layer.__class__ = scheme
        with torch.no_grad():
            logits = model(clips[:1])
        expected = logits if expected is None else expected
        if not torch.allclose(logits, expected, atol=1e-4):
            raise RuntimeError(f"{name}: other logits than the first variant's")
        model.train(training)
    if not training:
        models = {name: model.to(torch.bfloat16) for name, model in models.items()}
    steps = {name: make_step(model, clips, "bf16") for name, model in models.items()}
    setting = {"backbone": backbone, "frames": frames, "batch_size": batch_size, "precision": "bf16"}
    setting |= {"mode": "training" if training else "inference", "compiled": False, "rounds": rounds}
    return {"setting": setting, "models": _measure(steps, device, rounds=rounds, clips=batch_size)}


def _measure(steps: dict[str, Step], device: str, *, rounds: int, clips: int) -> dict[str, dict[str, float]]:
    """A row for each step: its time and its ratio to the first one, in interleaved rounds; its memory."""
    waiting = {name: partial(_run_and_wait, step, device) for name, step in steps.items()}
    extra = {}
    for name, step in waiting.items():
        step()
        step_bytes = _peak_bytes(step, device)
        extra[name] = {"launch_milliseconds": 1e3 * _launch_seconds(steps[name], device), "step_bytes": step_bytes}
    seconds = time_interleaved(waiting, rounds=rounds, warm_up=3)
    first, rows = next(iter(seconds.values())), {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, first, strict=True)]
        ratio, (low, high) = statistics.median(ratios), median_interval(ratios) or (math.nan, math.nan)
        median = statistics.median(values)
        rows[name] = {"milliseconds": 1e3 * median, "clips_per_second": clips / median, **extra[name]}
        rows[name] |= {"ratio": ratio, "ratio_low": low, "ratio_high": high}
    return rows


def _inference_step(model: nn.Module, clips: Tensor, precision: str) -> Step:
    clips = clips.to(PRECISIONS[precision])

    def step() -> None:
        with torch.inference_mode():
            model(clips)

    return step


def _training_step(model: nn.Module, clips: Tensor, precision: str) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(clips).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def time_stream(*, backbone: str, batch_sizes: list[int], rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """One frame pushed into a stream in bf16, over the image model on one frame, for numbers of parallel streams."""
    model = create_model(backbone, num_classes=400, num_frames=8, causal=True, temporal_position="head")
    image = timm.create_model(backbone, num_classes=400)
    model, image = (x.eval().to(device, torch.bfloat16) for x in (model, image))
    for B in batch_sizes:
        size = model.clip_spec.image_size
        clip = torch.randn(B, 8, 3, size, size, device=device, dtype=torch.bfloat16)
        stream = Stream(model)
        stream.push(clip)
        # A new frame in each push: a stream does not compute what repeats.
        frames = cycle([torch.randn_like(clip[:, :1]) for _ in range(8)])
        steps = {
            IMAGE_MODEL: _inference_step(image, clip[:, 0], "bf16"),
            "pushed frame": partial(_push, stream, frames),
            "whole clip": _inference_step(model, clip, "bf16"),
        }
        rows = _measure(steps, device, rounds=rounds, clips=B)
        state = sum(x.numel() * x.element_size() for x in stream.tensors().values())
        yield {"streams": B, "models": rows, "state_bytes_per_stream": state // B}


def _push(stream: Stream, frames: Iterator[Tensor]) -> None:
    stream.push(next(frames))


def _run_and_wait(step: Step, device: str) -> None:
    step()
    if device != "cpu":
        torch.accelerator.synchronize()


def _launch_seconds(step: Step, device: str) -> float:
    """Median time until a step is launched, before the device has done it: if it is near the whole, Python is slower
    than the device."""
    seconds = []
    for _ in range(_LAUNCHES):
        _run_and_wait(lambda: None, device)
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _peak_bytes(step: Step, device: str) -> int:
    """The most memory that a step allocates beside the weights and the optimiser's state; 0 on the CPU."""
    if torch.device(device).type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before
