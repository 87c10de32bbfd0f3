"""Time from the start of a process to its end, for short commands, and the imports that take it.

    python benchmarks/startup.py [--rounds 9] [--json]

Measured are the interpreter alone, the imports that a prediction cannot do without, `xvit --help`, and `xvit predict`
of one video with a tiny model: exported to ONNX and OpenVINO, and as a checkpoint. The script makes the model, its
exports and the video in a temporary folder. In each round all commands run once, in a new random order; the times are
medians with their 95 % intervals. The imports are those of `python -X importtime`: the time of a package is that of all
its modules, without those of other packages that they import.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import torch

from common import log_progress
from xvit import create_model
from xvit.config import ClipSpec
from xvit.data.synthetic.dataset import encode_video
from xvit.models.backbone import resolve_clip_spec
from xvit.utils.intervals import median_interval
from xvit.utils.timing import interleaved_rounds

BARE, NEEDED = "python -c pass", 'python -c "import onnxruntime, av, numpy, PIL"'
_IMPORT_RUNS = 3
_LISTED_IMPORTS = 10
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")


def make_model(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write a video, a checkpoint and its exports; return the path of the video and those of the models, by name."""
    video, checkpoint = folder / "clip.mp4", folder / "checkpoint"
    rng = np.random.default_rng(0)
    encode_video(rng.integers(0, 256, (40, 120, 160, 3), dtype=np.uint8), video)
    torch.manual_seed(0)
    backbone = {"img_size": 48, "patch_size": 16, "depth": 2, "embed_dim": 24, "num_heads": 2}
    model = create_model("vit_tiny_patch16_224", num_classes=3, num_frames=4, backbone_kwargs=backbone)
    model.class_names = ["blue", "green", "red"]
    model.clip_spec = resolve_clip_spec(ClipSpec(num_frames=4, image_size=48), model.backbone)
    model.save_pretrained(checkpoint)
    models = {}
    for name, program in {"ONNX": "onnx", "OpenVINO": "openvino"}.items():
        log_progress(f"exporting to {name}")
        models[name] = folder / program
        options = ("--format", program, "--videos", video, "--output", models[name], "--min-agreement", 0)
        run_command([sys.executable, "-m", "xvit", "export", str(checkpoint), *map(str, options)])
    return video, models | {"checkpoint (safetensors)": checkpoint}


def list_commands(video: Path, models: dict[str, Path]) -> dict[str, list[str]]:
    """The arguments of the interpreter, by the name of the command."""
    predict = ["-m", "xvit", "predict", str(video), "--checkpoint"]
    return {
        BARE: ["-c", "pass"],
        NEEDED: ["-c", "import onnxruntime, av, numpy, PIL"],
        "xvit --help": ["-m", "xvit", "--help"],
        **{f"xvit predict, {name}": [*predict, str(path)] for name, path in models.items()},
    }


def run_command(command: Sequence[str]) -> float:
    """Run a command; return the processor time of its process and those that it waited for, in seconds."""
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}: {errors.read()[-2000:]}")
    return usage.ru_utime + usage.ru_stime


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each command, wall time and processor time, one value per round."""
    processor: dict[str, list[float]] = {name: [] for name in commands}

    def step(name: str) -> None:
        processor[name].append(run_command([sys.executable, *commands[name]]))

    steps: dict[str, Callable[[], None]] = {name: partial(step, name) for name in commands}
    wall: dict[str, list[float]] = {name: [] for name in commands}
    for number, seconds in enumerate(islice(interleaved_rounds(steps), rounds + 1)):
        log_progress(f"round {number} of {rounds}")
        if number:  # the first one fills the caches of the file system
            for name, value in seconds.items():
                wall[name].append(value)
    return {name: {"wall": wall[name], "processor": processor[name][1:]} for name in commands}


def imports_by_package(arguments: Sequence[str]) -> dict[str, float]:
    """Seconds that the modules of each top-level package take when they are imported, the largest first."""
    runs = []
    for _ in range(_IMPORT_RUNS):
        command = [sys.executable, "-X", "importtime", *arguments]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
        seconds: dict[str, float] = defaultdict(float)
        for line in lines:
            if found := _IMPORT_LINE.match(line):
                seconds[found[2]] += int(found[1]) / 1e6
        runs.append(seconds)
    names = {name for run in runs for name in run}
    medians = {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def format_median(values: Sequence[float]) -> str:
    """The median with its interval, if there are values enough for one."""
    interval = median_interval(values)
    return f"{statistics.median(values):.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def ratios(seconds: dict[str, dict[str, list[float]]], name: str, reference: str) -> list[float]:
    """Processor time of a command relative to another one in the same round."""
    pairs = zip(seconds[name]["processor"], seconds[reference]["processor"], strict=True)
    return [first / second for first, second in pairs]


def print_tables(seconds: dict[str, dict[str, list[float]]], imports: dict[str, dict[str, float]]) -> None:
    """Print the times and the imports as Markdown."""
    print(f"| command | wall time, s | processor time, s | relative to `{NEEDED}` |\n|---|---|---|---|")
    for name, times in seconds.items():
        relative = format_median(ratios(seconds, name, NEEDED))
        print(f"| `{name}` | {format_median(times['wall'])} | {format_median(times['processor'])} | {relative} |")
    help_times, bare_times = (seconds[name]["processor"] for name in ("xvit --help", BARE))
    more = format_median([first - second for first, second in zip(help_times, bare_times, strict=True)])
    print(f"\n`xvit --help` takes {more} s of processor time more than `{BARE}`.")
    for name, packages in imports.items():
        largest = ", ".join(
            f"{package} {1e3 * value:.0f}" for package, value in islice(packages.items(), _LISTED_IMPORTS)
        )
        print(f"\n`{name}`: {1e3 * sum(packages.values()):.0f} ms of imports, the largest (ms): {largest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected at least 1")
    with TemporaryDirectory() as folder:
        commands = list_commands(*make_model(Path(folder)))
        seconds = measure(commands, args.rounds)
        log_progress("imports")
        imports = {name: imports_by_package(arguments) for name, arguments in commands.items()}
    if args.json:
        print(json.dumps({"seconds": seconds, "imports": imports}, indent=2))
    else:
        print_tables(seconds, imports)


if __name__ == "__main__":
    main()
