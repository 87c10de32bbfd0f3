"""Real image weights and real videos: what mixing gives beside the spatial model, on tasks with free labels.

    python benchmarks/real.py --cache CACHE --output OUTPUT [--only PART ...]
        [--tune head lora full] [--seeds 3] [--steps 60] [--workers 2]

Writes OUTPUT/results.json and prints its tables. The parts:

    weights     download a DINOv2-small backbone into the cache, convert it, compare it with ONNX Runtime
    training    train on tasks from real videos (`real_tasks.py`, `real_training.py`)
    footage     train heads on parts of the footage: would more of it help?
    windows     train heads on more windows of the footage
    earlier     train heads on the last part of each video, and test them on the first
    agreement   of int8 exports and of token merging with the trained models (`real_use.py`)
    patches     how much of real videos does not change from frame to frame
    times       time of a frame; only if asked for, and only meaningful on a machine that does nothing else

Each training, and the agreement of each model, is one file of the output: the same command continues after a stop.
"""

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import real_report
import real_sources
import real_use
import real_weights
from common import log_progress
from real_tasks import TASKS, Footage, read_footage, test_windows, window_blocks
from real_training import TUNE, Run, all_runs, build_model, frame_vectors, train
from real_use import kept_run
from xvit.utils.errors import XViTError
from xvit.utils.files import publish, read_json, write_json
from xvit.utils.version import __version__

WEIGHTS = "weights.safetensors"  # in the cache
SHARES = (0.25, 0.5)  # of the footage for training, besides all of it
MANY_WINDOWS = 2400


def read_all_footage(cache: Path, tested: str = "later") -> list[Footage]:
    """The footage of all videos of the cache that are long enough for the tasks."""
    videos = (read_footage(path) for path in real_sources.fetch_videos(cache))
    return [replace(video, tested=tested) for video in videos if video is not None]


def vectors_path(output: Path, run: Run) -> Path:
    """The file of the frame vectors that all seeds and ways to train share."""
    return output / "vectors" / f"{run.vectors_name}.safetensors"


def embed_one(run: Run, args: argparse.Namespace) -> None:
    """Write the frame vectors of one task and scheme."""
    torch.set_num_threads(1)
    path = vectors_path(args.output, run)
    model = build_model(args.cache / WEIGHTS, run.scheme).eval()
    tmp_path = path.with_name(f".{path.name}")
    footage = read_all_footage(args.cache, run.tested)
    save_file(frame_vectors(model, run, footage), tmp_path)
    publish(tmp_path, path)


def run_one(run: Run, args: argparse.Namespace) -> None:
    """Train and test one model, and write its file. One model of each task is kept for `real_use`."""
    torch.set_num_threads(1)
    vectors = load_file(vectors_path(args.output, run))
    footage = read_all_footage(args.cache, run.tested)
    model, result = train(run, args.cache / WEIGHTS, footage, vectors, args.steps)
    if run == kept_run(run.task):
        model.save_pretrained(args.output / "models" / run.name)
    write_json(run_path(args.output, run), result | {"steps": args.steps})


def run_path(output: Path, run: Run) -> Path:
    """The file of a training's result."""
    return output / "runs" / f"{run.name}.json"


def run_all(jobs: dict[Path, Run], work: Callable[..., None], args: argparse.Namespace) -> None:
    """Do what has no file yet, several at a time, each with one thread."""
    rest = {path: run for path, run in jobs.items() if not path.is_file()}
    for path in rest:
        path.parent.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(work, run, args): path for path, run in rest.items()}
        for done, future in enumerate(as_completed(futures), start=len(jobs) - len(rest) + 1):
            future.result()
            log_progress(f"{done} of {len(jobs)}: {futures[future].stem}")
    finally:
        pool.shutdown(cancel_futures=True)


def train_all(runs: Sequence[Run], args: argparse.Namespace) -> None:
    """Do the trainings that have no file yet."""
    log_progress("frame vectors of the frozen image model")
    run_all({vectors_path(args.output, run): run for run in runs}, embed_one, args)
    log_progress("trainings")
    run_all({run_path(args.output, run): run for run in runs}, run_one, args)


def measure_weights(args: argparse.Namespace) -> dict[str, Any]:
    """Convert the weights, compared with ONNX Runtime: all other parts need them."""
    [onnx_path] = real_sources.fetch(real_sources.WEIGHTS, args.cache)
    return {"weights": real_weights.convert(onnx_path, args.cache / WEIGHTS)}


def measure_training(args: argparse.Namespace) -> dict[str, Any]:
    """The trainings that have no file yet, and the results of all that have one."""
    for path in (args.output / "runs").glob("*.json"):
        if (steps := read_json(path)["steps"]) != args.steps:
            raise XViTError(f"{path}: trained with --steps {steps}; continue with these, or choose another --output")
    footage = read_all_footage(args.cache)
    runs = all_runs(args.seeds, args.tune)
    train_all(runs, args)
    paths = [run_path(args.output, run) for run in all_runs(args.seeds, list(TUNE))]
    return {
        "steps": args.steps,
        "footage": [{"name": video.name, "rate": video.rate, "test_windows": len(video.test)} for video in footage],
        "blocks": window_blocks(test_windows(footage)),
        "runs": [read_json(path) for path in paths if path.is_file()],
    }


def measure_footage(args: argparse.Namespace) -> dict[str, Any]:
    """Heads that are trained on parts of the footage; those on all of it are among the trainings."""
    runs = [replace(run, share=share) for share in SHARES for run in all_runs(args.seeds, ["head"])]
    runs = [run for run in runs if run.scheme == "mixing, replicate"]
    train_all(runs, args)
    seconds = sum(video.train_seconds for video in read_all_footage(args.cache))
    return {"train_seconds": seconds, "shares": [read_json(run_path(args.output, run)) for run in runs]}


def measure_windows(args: argparse.Namespace) -> dict[str, Any]:
    """Heads that are trained on more windows of the same footage, on each as often."""
    runs = [replace(run, windows=MANY_WINDOWS) for run in all_runs(args.seeds, ["head"])]
    runs = [run for run in runs if run.scheme != "mixing, zero"]
    return {"windows": measure_heads(runs, args)}


def measure_earlier(args: argparse.Namespace) -> dict[str, Any]:
    """Heads that are trained on the last part of each video and tested on the first: other test clips."""
    runs = [replace(run, tested="earlier") for run in all_runs(args.seeds, ["head"])]
    return {"earlier": measure_heads(runs, args)}


def measure_heads(runs: Sequence[Run], args: argparse.Namespace) -> dict[str, Any]:
    """The results of trainings with the same test clips."""
    train_all(runs, args)
    blocks = window_blocks(test_windows(read_all_footage(args.cache, runs[0].tested)))
    return {"blocks": blocks, "runs": [read_json(run_path(args.output, run)) for run in runs]}


def measure_agreement(args: argparse.Namespace) -> dict[str, Any]:
    """Of exports and merged tokens, for the kept models: one file each."""
    footage, rows = read_all_footage(args.cache), []
    for task in TASKS:
        path, directory = args.output / "agreement" / f"{task}.json", args.output / "models" / kept_run(task).name
        if not path.is_file() and directory.is_dir():
            log_progress(f"int8 and token merging: {task}")
            path.parent.mkdir(exist_ok=True)
            write_json(path, real_use.measure_agreement(directory, task, footage))
        rows += read_json(path) if path.is_file() else []
    return {"agreement": rows}


def measure_patches(args: argparse.Namespace) -> dict[str, Any]:
    """Of all videos, also of those that are too short for the tasks."""
    return {"patches": real_use.measure_patches(real_sources.fetch_videos(args.cache), args.cache / WEIGHTS)}


def measure_times(args: argparse.Namespace) -> dict[str, Any]:
    """Only to be run on a machine that does nothing else."""
    [video] = [path for path in real_sources.fetch_videos(args.cache) if path.name == real_use.TIMED] or [None]
    if video is None:
        raise XViTError(f"times: {real_use.TIMED} cannot be reached")
    return {"times": real_use.measure_times(video, args.cache / WEIGHTS)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "weights": measure_weights,
    "training": measure_training,
    "footage": measure_footage,
    "windows": measure_windows,
    "earlier": measure_earlier,
    "agreement": measure_agreement,
    "patches": measure_patches,
    "times": measure_times,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is downloaded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "times"])
    parser.add_argument("--tune", nargs="+", choices=TUNE, default=list(TUNE), help="what is trained")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of lora and full, of 8 clips each")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, each with one thread")
    args = parser.parse_args()
    args.cache, args.output = args.cache.resolve(), args.output.resolve()
    args.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no worker is left behind
    path = args.output / "results.json"
    try:
        result = read_json(path) if path.is_file() else {}
        result["versions"] = {"xvit": __version__, "torch": torch.__version__}
        for part in PARTS:
            if part in args.only:
                log_progress(part)
                result |= PARTS[part](args)
                write_json(path, result)
    except XViTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    print(real_report.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
