"""Run a benchmark of many groups. Each group is saved with the rounds it has, so a stopped benchmark can resume.

DIR/benchmark.json   the machine, the settings, and each measurement with all its times
DIR/benchmark.md     the tables
DIR/inference.png    time, memory and multiply-adds by number of frames; DIR/training.png as well
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from xvit.experiments import common
from xvit.experiments.benchmark.measure import (
    DTYPES,
    GroupSettings,
    Limits,
    add_rounds,
    count,
    measure_models,
    time_ratios,
    widest,
)
from xvit.experiments.benchmark.peers import IMAGE_MODEL, MODELS, NUM_CLASSES, check_model_name
from xvit.experiments.benchmark.ratios import Ratio
from xvit.models.factory import create_model
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, check_choice, check_range
from xvit.utils.files import write_json

MODES = ("inference", "training")
# A resumed benchmark may have other values of these; every other setting must be the same.
_EXTENSIBLE = ("models", "backbones", "frames", "precisions", "modes", "margin", "time_limit")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure: one group for each backbone, number of frames, precision and mode.

    Args:
        models: keys of `MODELS`. The image model is always measured, because the ratios are to its time and memory.
        backbones: timm models whose size the models have, except those of a fixed size.
        frames: numbers of frames per clip.
        precisions: any of fp32 and bf16, for weights and arithmetic.
        modes: any of inference, and training: forward pass, backward pass and an SGD step.
        batch_size: clips per step.
        margin: a group is measured until the interval of each ratio is within this many percent of the ratio ...
        time_limit: ... but the rounds of all groups together take at most this many minutes.
        compiled: use torch.compile.
        device: device of the models.
        threads: torch's threads on a CPU.

    Raises:
        XViTError: an unknown name, a number out of its range, a device that is not available.
    """

    models: tuple[str, ...] = tuple(MODELS)
    backbones: tuple[str, ...] = ("vit_base_patch16_224",)
    frames: tuple[int, ...] = (4, 8, 16)
    precisions: tuple[str, ...] = ("fp32",)
    modes: tuple[str, ...] = MODES
    batch_size: int = 1
    margin: float = 1.0
    time_limit: float = 60.0
    compiled: bool = False
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in self.models:
            check_model_name(name)
        for precision in self.precisions:
            check_choice("--precisions", precision, DTYPES)
        for mode in self.modes:
            check_choice("--modes", mode, MODES)
        for name, low in {"batch_size": 1, "threads": 1, "margin": 0.01, "time_limit": 0}.items():
            check_range(f"--{name.replace('_', '-')}", getattr(self, name), low)
        for frames in self.frames:
            check_range("--frames", frames, 2)
            if frames % 2:
                raise XViTError(f"--frames {frames}: expected even numbers, because some models use 2-frame tubelets")
        if not any(MODELS[name].supports(frames) for name in self.models for frames in self.frames):
            numbers = " ".join(map(str, self.frames))
            raise XViTError(f"--frames {numbers}: none of the models supports these. Add other --models or --frames")
        resolve_device(self.device)
        with torch.device("meta"):  # checks the backbones' names
            for backbone in self.backbones:
                create_model(backbone, num_classes=NUM_CLASSES)

    @property
    def groups(self) -> list[GroupSettings]:
        """The groups in the order of the report."""
        options = {name: getattr(self, name) for name in ("batch_size", "compiled", "device", "threads")}
        return [
            GroupSettings(backbone=backbone, frames=frames, precision=precision, mode=mode, **options)
            for backbone, mode, precision, frames in product(
                self.backbones, self.modes, self.precisions, sorted(self.frames)
            )
        ]

    def models_of(self, settings: GroupSettings) -> list[str]:
        """The models of a group, in the order of `MODELS`: the image model, and those that support its frames."""
        wanted = {IMAGE_MODEL, *self.models}
        return [name for name in MODELS if name in wanted and MODELS[name].supports(settings.frames)]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Cost of one model in one group.

    Args:
        parameters: their number.
        macs: multiply-adds of the forward pass for one clip.
        seconds: duration of a step, in each round.
        peak_bytes: peak memory of the process in each run, or on an accelerator the peak of its allocated memory.
    """

    parameters: int
    macs: int
    seconds: list[float]
    peak_bytes: list[int]


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """The measurements of one group.

    Args:
        settings: of the group.
        margin: the requested one, in percent.
        wall_seconds: duration of all rounds, the untimed first one among them.
        empty_bytes: peak memory of a process without a model, in each run.
        models: the measurements by model, in the order of `MODELS`, the image model first.
    """

    settings: GroupSettings
    margin: float
    wall_seconds: float
    empty_bytes: list[int]
    models: dict[str, Measurement]

    @property
    def rounds(self) -> int:
        """The number of timed rounds."""
        return len(self.models[IMAGE_MODEL].seconds)

    @cached_property
    def ratios(self) -> dict[str, Ratio]:
        """The ratio of each other model's time to the image model's."""
        return time_ratios({name: model.seconds for name, model in self.models.items()})

    @property
    def outlier_rounds(self) -> int:
        """The number of rounds that are far from the others for at least one model."""
        return len({index for ratio in self.ratios.values() for index in ratio.outliers})

    def is_converged(self, model: str) -> bool:
        """Whether the interval of this model's ratio is within the requested margin."""
        return self.ratios[model].margin <= self.margin


def run_benchmark(output: str | Path, config: BenchmarkConfig, on_progress: common.CountCallback) -> list[GroupResult]:
    """Measure the groups that the output directory lacks, or has without some of the models or not precisely enough.

    The groups with most to compute come first: time that they leave is then spent on the short steps of the others,
    which vary more. Models that a group lacks are measured together with those that it has, from the first round on.

    Args:
        output: a new or empty directory, or the directory of a benchmark with the same settings, which is resumed.
        config: what to measure.
        on_progress: called with the current step, the number of groups done and their total.

    Returns:
        All groups of the directory.

    Raises:
        XViTError: a directory of a benchmark with other settings or on another machine, or one without a benchmark.
        KeyboardInterrupt: Ctrl-C; the rounds so far were saved.
    """
    path = Path(output) / "benchmark.json"
    header = {"plan": json.loads(json.dumps(asdict(config))), "machine": machine_info(config)}
    groups = _open_output(path, header)
    pending = sorted((each for each in config.groups if not _is_done(groups, each, config)), key=_cost, reverse=True)
    torch.set_num_threads(config.threads)
    seconds_left, total = 60 * config.time_limit, len(pending)
    for done, settings in enumerate(pending):
        key, cost_left = _key(settings), sum(map(_cost, pending[done:]))
        on_step = partial(_report_step, on_progress, key, done, total)
        names = config.models_of(settings)
        if key not in groups or not groups[key]["models"].keys() >= set(names):
            names = [name for name in MODELS if name in names or name in groups.get(key, {"models": ()})["models"]]
            group = measure_models(names, settings, on_step)
        else:
            group = groups[key]
        limits = Limits(margin=config.margin, seconds=seconds_left * _cost(settings) / cost_left)
        wall_seconds = group["wall_seconds"]
        try:
            add_rounds(group, settings, limits, on_step)
        finally:
            seconds_left -= group["wall_seconds"] - wall_seconds
            _save_group(path, header, groups, key, group | {"margin": config.margin})
        on_progress(f"{key}: {describe_group(parse_group(groups[key]))}", done + 1, total)
    return [parse_group(group) for group in groups.values()]


def _is_done(groups: dict[str, Any], settings: GroupSettings, config: BenchmarkConfig) -> bool:
    group = groups.get(_key(settings))
    if group is None or not group["models"].keys() >= set(config.models_of(settings)):
        return False
    return all(ratio.margin <= config.margin for ratio in parse_group(group).ratios.values())


def _save_group(path: Path, header: dict[str, Any], groups: dict[str, Any], key: str, group: dict[str, Any]) -> None:
    """Add a group to the groups and to the file, unless it has no round."""
    result = parse_group(group)
    if result.rounds:
        groups[key] = group | {"rounds": result.rounds, "time_ratios": ratios_to_json(result)}
        ordered = dict(sorted(groups.items(), key=lambda item: _order(item[1]["setting"])))
        write_json(path, header | {"groups": ordered})


def _order(setting: dict[str, Any]) -> tuple[Any, ...]:
    return (
        setting["backbone"],
        MODES.index(setting["mode"]),
        list(DTYPES).index(setting["precision"]),
        setting["frames"],
    )


def ratios_to_json(group: GroupResult) -> dict[str, Any]:
    """The ratios of a group as they are saved, with whether each is as precise as requested."""
    return {
        name: asdict(ratio)
        | {"margin_percent": ratio.margin if ratio.low else None, "converged": group.is_converged(name)}
        for name, ratio in group.ratios.items()
    }


def describe_group(group: GroupResult) -> str:
    """The precision that was reached, in one line."""
    wide = [name for name in group.ratios if not group.is_converged(name)]
    text = f"rounds: {group.rounds}, outliers among them: {group.outlier_rounds}, time: {group.wall_seconds:.0f} s, "
    text += f"widest interval: {widest(group.ratios)}"
    return text + (f"; not within ±{group.margin:g} %: {', '.join(wide)}" if wide else "")


def _key(settings: GroupSettings) -> str:
    return f"{settings.backbone}, {settings.mode}, {settings.precision}, T={settings.frames}"


def _cost(settings: GroupSettings) -> int:
    """What a round of this group takes, in relation to others."""
    macs = count(IMAGE_MODEL, settings.backbone, settings.frames)["macs"]
    return macs * (3 if settings.mode == "training" else 1)


def _report_step(on_progress: Callable[[str, int, int], None], key: str, done: int, total: int, step: str) -> None:
    on_progress(f"{key}: {step}", done, total)


def parse_group(group: dict[str, Any]) -> GroupResult:
    """A group of benchmark.json."""
    models = {name: Measurement(**values) for name, values in group["models"].items()}
    values = {name: group[name] for name in ("margin", "wall_seconds", "empty_bytes")}
    return GroupResult(settings=GroupSettings(**group["setting"]), models=models, **values)


def read_benchmark(output: str | Path) -> tuple[list[GroupResult], dict[str, str]]:
    """The groups of a directory and the machine that they were measured on.

    Raises:
        XViTError: there is no benchmark, or it is damaged.
    """
    path = Path(output) / "benchmark.json"
    if not path.is_file():
        raise XViTError(f"{path}: not found: there are no measurements yet")

    def parse(saved: dict[str, Any]) -> tuple[list[GroupResult], dict[str, str]]:
        return [parse_group(group) for group in saved["groups"].values()], saved["machine"]

    return common.load_state(path, parse)


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
        for group in saved["groups"].values():
            parse_group(group)  # checks the fields
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
