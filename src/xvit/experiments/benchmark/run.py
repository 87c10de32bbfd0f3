"""Run a benchmark of many groups. Each finished group is saved, so a stopped benchmark can resume.

DIR/benchmark.json   the machine, the settings, and each measurement with all its times
DIR/benchmark.md     the tables
DIR/benchmark.png    time and memory by number of frames
"""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from xvit.experiments import common
from xvit.experiments.benchmark.measure import DTYPES, GroupSettings, measure_group
from xvit.experiments.benchmark.peers import MODELS, NUM_CLASSES, check_model_name
from xvit.models.factory import create_model
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, check_choice, check_range
from xvit.utils.files import write_json

_MODES = ("inference", "training")
# A resumed benchmark may have other values of these; every other setting must be the same.
_EXTENSIBLE = ("models", "frames", "precisions", "modes")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure: one group for each number of frames, precision and mode.

    Args:
        models: keys of `MODELS`.
        backbone: timm model whose size the models have, except those of a fixed size.
        frames: numbers of frames per clip.
        precisions: any of fp32 and bf16, for weights and arithmetic.
        modes: any of inference, and training: forward pass, backward pass and an SGD step.
        batch_size: clips per step.
        rounds: number of timed steps of each model; the medians are taken over them.
        compiled: use torch.compile.
        device: device of the models.
        threads: torch's threads on a CPU.

    Raises:
        XViTError: an unknown name, a number out of its range, a device that is not available.
    """

    models: tuple[str, ...] = tuple(MODELS)
    backbone: str = "vit_base_patch16_224"
    frames: tuple[int, ...] = (4, 8, 16, 32, 64)
    precisions: tuple[str, ...] = ("fp32", "bf16")
    modes: tuple[str, ...] = _MODES
    batch_size: int = 1
    rounds: int = 5
    compiled: bool = False
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in self.models:
            check_model_name(name)
        for precision in self.precisions:
            check_choice("--precisions", precision, DTYPES)
        for mode in self.modes:
            check_choice("--modes", mode, _MODES)
        for name in ("batch_size", "rounds", "threads"):
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for frames in self.frames:
            check_range("--frames", frames, 2)
            if frames % 2:
                raise XViTError(f"--frames {frames}: expected even numbers, because some models use 2-frame tubelets")
        if not any(MODELS[name].supports(frames) for name in self.models for frames in self.frames):
            numbers = " ".join(map(str, self.frames))
            raise XViTError(f"--frames {numbers}: none of the models supports these. Add other --models or --frames")
        resolve_device(self.device)
        with torch.device("meta"):  # checks the backbone's name
            create_model(self.backbone, num_classes=NUM_CLASSES)

    @property
    def groups(self) -> list[GroupSettings]:
        """The groups, the fastest first."""
        shared = ("backbone", "batch_size", "compiled", "device", "threads", "rounds")
        options = {name: getattr(self, name) for name in shared}
        return [
            GroupSettings(frames=frames, precision=precision, mode=mode, **options)
            for mode, precision, frames in product(self.modes, self.precisions, sorted(self.frames))
        ]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Cost of one model in one group.

    Args:
        parameters: their number.
        macs: multiply-adds of the forward pass for one clip.
        seconds: duration of a step, in each round.
        peak_bytes: peak memory of the process, or on an accelerator the peak of its allocated memory.
    """

    parameters: int
    macs: int
    seconds: list[float]
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """The measurement of one model in one group.

    `macs_per_second` is the rate of the matrix multiplication in the same rounds, `empty_bytes` the peak memory of a
    process without a model.
    """

    model: str
    settings: GroupSettings
    measurement: Measurement
    macs_per_second: list[float]
    empty_bytes: int


def run_benchmark(output: str | Path, config: BenchmarkConfig, on_progress: common.CountCallback) -> list[ModelResult]:
    """Measure the groups that the output directory lacks, or has without some of the models.

    Args:
        output: a new or empty directory, or the directory of a benchmark with the same settings, which is resumed.
        config: what to measure.
        on_progress: called with the current step, the number of groups done and their total.

    Raises:
        XViTError: a directory of a benchmark with other settings or on another machine, or one without a benchmark.
    """
    path, planned = Path(output) / "benchmark.json", config.groups
    header = {"plan": json.loads(json.dumps(asdict(config))), "machine": machine_info(config)}
    groups = _open_output(path, header)
    torch.set_num_threads(config.threads)
    for done, settings in enumerate(planned):
        key = f"{settings.mode}, {settings.precision}, T={settings.frames}"
        measured = set(groups[key]["models"]) if key in groups else set()
        requested = {name for name in config.models if MODELS[name].supports(settings.frames)}
        if key in groups and requested <= measured:
            continue
        # Models that were measured before are measured again: all models of a group take turns.
        names = [name for name in MODELS if name in requested or name in measured]
        advance = partial(_report_step, on_progress, key, done, len(planned))
        groups[key] = measure_group(names, settings, advance)
        write_json(path, header | {"groups": groups})
    return list(parse_groups(groups))


def _report_step(on_progress: Callable[[str, int, int], None], key: str, done: int, total: int, step: str) -> None:
    on_progress(f"{key}: {step}", done, total)


def parse_groups(groups: dict[str, Any]) -> Iterator[ModelResult]:
    """The results in the "groups" of benchmark.json."""
    for group in groups.values():
        settings = GroupSettings(**group["setting"])
        for name, values in group["models"].items():
            shared = {key: group[key] for key in ("macs_per_second", "empty_bytes")}
            yield ModelResult(model=name, settings=settings, measurement=Measurement(**values), **shared)


def machine_info(config: BenchmarkConfig) -> dict[str, str]:
    """The hardware and the versions of the libraries."""
    info = {"python": platform.python_version(), "torch": str(torch.__version__), "processor": _processor()}
    if torch.device(config.device).type == "cuda":
        info["accelerator"] = torch.cuda.get_device_name(config.device)
    for name in ("xvit", "timm", "transformers", "torchvision"):
        try:
            info[name] = version(name)
        except PackageNotFoundError:
            info[name] = "not installed"
    return info


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _open_output(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The saved groups, after a check that they were measured with the same settings on the same machine."""

    def parse(saved: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        list(parse_groups(saved["groups"]))  # checks the fields
        different = [
            f"{name} = {saved[part].get(name)}, not {value}"
            for part in ("plan", "machine")
            for name, value in header[part].items()
            if saved[part].get(name) != value and name not in _EXTENSIBLE
        ]
        return saved["groups"], different

    groups, different = common.open_directory(path, "a benchmark", parse) or ({}, [])
    if different:
        raise XViTError(f"{path}: measured with {different[0]}; choose another --output")
    return groups
