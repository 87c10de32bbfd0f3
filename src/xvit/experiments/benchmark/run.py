"""A benchmark of many groups, each kept when it is done: stopped at any point, it goes on.

DIR/benchmark.json   the machine, the settings, each measurement with all its times
DIR/benchmark.md     the tables
DIR/benchmark.png    time and memory against the number of frames
"""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from xvit.experiments.benchmark.entrants import CLASSES, ENTRANTS
from xvit.experiments.benchmark.measure import DTYPES, Measured, Setting, measure
from xvit.models.factory import create_model
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, check_choice, check_range, did_you_mean
from xvit.utils.files import atomic_write_text

RESULTS = "benchmark.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: each number of frames in each mode and precision.

    Args:
        models: names of `ENTRANTS`.
        backbone: a timm model, of whose size all are that can be.
        frames: the numbers of frames.
        precisions: of fp32 and bf16.
        modes: of inference and training.
        batch_size: clips at a time.
        rounds: turns of each model; the medians are over them.
        compiled: through torch.compile.
        device: where.
        threads: of torch on a CPU.

    Raises:
        XViTError: an unknown name, a number out of its range, no such device.
    """

    models: tuple[str, ...] = tuple(ENTRANTS)
    backbone: str = "vit_base_patch16_224"
    frames: tuple[int, ...] = (4, 8, 16, 32, 64)
    precisions: tuple[str, ...] = ("fp32", "bf16")
    modes: tuple[str, ...] = ("inference", "training")
    batch_size: int = 1
    rounds: int = 5
    compiled: bool = False
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in ENTRANTS:
                known = ", ".join(f'"{known}"' for known in ENTRANTS)
                raise XViTError(f'--models: no model "{name}".{did_you_mean(name, ENTRANTS)} Known: {known}')
        for precision in self.precisions:
            check_choice("--precisions", precision, DTYPES)
        for mode in self.modes:
            check_choice("--modes", mode, ("inference", "training"))
        for name in ("batch_size", "rounds", "threads"):
            check_range(f"--{name}", getattr(self, name), 1)
        for frames in self.frames:
            check_range("--frames", frames, 2)
            if frames % 2:
                raise XViTError(f"--frames {frames}: expected even numbers: some models take 2 frames at a time")
        resolve_device(self.device)
        with torch.device("meta"):  # which says what is wrong with the name
            create_model(self.backbone, num_classes=CLASSES)

    @property
    def groups(self) -> list[Setting]:
        """The groups, the quickest first."""
        keys = ("backbone", "batch_size", "compiled", "device", "threads", "rounds")
        common = {name: getattr(self, name) for name in keys}
        return [
            Setting(frames=frames, precision=precision, mode=mode, **common)
            for mode in self.modes
            for precision in self.precisions
            for frames in sorted(self.frames)
        ]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model in a group.

    Args:
        model: its name.
        setting: of the group.
        measured: its numbers.
        macs_per_second: the machine's matrix multiplication in the same rounds.
        empty_bytes: peak memory of a process without a model.
    """

    model: str
    setting: Setting
    measured: Measured
    macs_per_second: list[float]
    empty_bytes: int


def run_benchmark(output: str | Path, plan: Plan, on_progress: Callable[[str, int, int], None]) -> list[Row]:
    """Measure all groups of a plan that the folder does not hold yet, or holds without some of its models.

    Args:
        output: a new folder, or one of the same settings, which then goes on.
        plan: what to measure.
        on_progress: called with what is done next, groups done, groups in all.

    Raises:
        XViTError: a folder of another plan or machine, or that holds no benchmark.
    """
    folder, groups = Path(output), plan.groups
    told = {"plan": json.loads(json.dumps(asdict(plan))), "machine": machine(plan)}
    found = _read(folder, told)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    for done, setting in enumerate(groups):
        key = f"{setting.mode}, {setting.precision}, T={setting.frames}"
        there = found[key]["models"] if key in found else {}
        asked = {name for name in plan.models if ENTRANTS[name].takes(setting.frames)}
        if key in found and asked <= there.keys():
            continue
        names = [name for name in ENTRANTS if name in asked or name in there]  # all of a group take turns
        models, rate, empty = measure(names, setting, partial(_tell, on_progress, key, done, len(groups)))
        found[key] = {
            "setting": asdict(setting),
            "macs_per_second": rate,
            "empty_bytes": empty,
            "models": {name: asdict(each) for name, each in models.items()},
        }
        atomic_write_text(folder / RESULTS, json.dumps(told | {"groups": found}, indent=1) + "\n")
    return list(rows_of(found))


def _tell(on_progress: Callable[[str, int, int], None], key: str, done: int, total: int, what: str) -> None:
    on_progress(f"{key}: {what}", done, total)


def rows_of(groups: dict[str, Any]) -> Iterator[Row]:
    """The rows in benchmark.json's groups."""
    for group in groups.values():
        setting = Setting(**group["setting"])
        for name, values in group["models"].items():
            yield Row(
                model=name,
                setting=setting,
                measured=Measured(**values),
                macs_per_second=group["macs_per_second"],
                empty_bytes=group["empty_bytes"],
            )


def machine(plan: Plan) -> dict[str, str]:
    """What it was measured on."""
    known = {"python": platform.python_version(), "torch": str(torch.__version__), "processor": _processor()}
    if torch.device(plan.device).type == "cuda":
        known["accelerator"] = torch.cuda.get_device_name(plan.device)
    for name in ("xvit", "timm", "transformers", "torchvision"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "not installed"
    return known


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _read(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise XViTError(f"{folder}: exists and holds no {RESULTS}; choose another --output")
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        groups: dict[str, Any] = values["groups"]
        list(rows_of(groups))
        unlike = [
            (name, values[key].get(name), value)
            for key in ("plan", "machine")
            for name, value in told[key].items()
            if values[key].get(name) != value and name not in ("models", "frames", "precisions", "modes")
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise XViTError(f"{path}: damaged ({type(error).__name__}: {error}); choose another --output") from None
    for name, before, value in unlike:
        raise XViTError(f"{path}: measured with {name} = {before}, not {value}: choose another --output")
    return groups
