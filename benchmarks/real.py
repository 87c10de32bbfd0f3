"""Real image weights and real videos: what mixing gives beside the spatial model, on tasks with free labels.

    python benchmarks/real.py --cache CACHE --output OUTPUT [--seeds 3] [--steps 60] [--workers 2]
    python benchmarks/real.py --cache CACHE --output OUTPUT --times

The first form downloads a DINOv2-small backbone and videos into the cache (`real_sources.py`), compares the converted
weights with ONNX Runtime, trains (`real_tasks.py`, `real_training.py`), and measures int8 exports, token merging and
unchanged patches (`real_use.py`). Each training is one file of the output; the same command continues after a stop.
The second form only times streams, on a machine that does nothing else. Both write OUTPUT/results.json and print its
tables.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

import real_report
import real_sources
import real_use
import real_weights
from common import log_progress
from real_tasks import Footage, read_footage, test_windows, window_blocks
from real_training import Run, all_runs, train
from xvit.utils.errors import XViTError
from xvit.utils.files import read_json, write_json
from xvit.utils.version import __version__


def read_all_footage(cache: Path) -> list[Footage]:
    """The footage of all videos of the cache that are long enough for the tasks."""
    videos = (read_footage(path) for path in real_sources.fetch_videos(cache))
    return [video for video in videos if video is not None]


def run_one(run: Run, weights: Path, cache: Path, output: Path, steps: int) -> None:
    """Train and test one model, and write its file. Seed 0's fully trained models are kept for `real_use`."""
    torch.set_num_threads(1)
    model, result = train(run, weights, read_all_footage(cache), steps)
    if run == real_use.kept_run(run.task):
        model.save_pretrained(output / "models" / run.name)
    write_json(output / "runs" / f"{run.name}.json", result)


def run_all(runs: list[Run], weights: Path, cache: Path, output: Path, steps: int, workers: int) -> None:
    """Train what has no file yet, several at a time, each with one thread."""
    (output / "runs").mkdir(parents=True, exist_ok=True)
    rest = [run for run in runs if not (output / "runs" / f"{run.name}.json").is_file()]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        futures = {pool.submit(run_one, run, weights, cache, output, steps): run for run in rest}
        for done, future in enumerate(as_completed(futures), start=len(runs) - len(rest) + 1):
            future.result()
            log_progress(f"{done} of {len(runs)} trainings: {futures[future].name}")
    finally:
        pool.shutdown(cancel_futures=True)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything but times."""
    [onnx_path] = real_sources.fetch(real_sources.WEIGHTS, args.cache)
    weights = args.cache / "weights.safetensors"
    log_progress("comparing the weights with ONNX Runtime")
    parity = real_weights.convert(onnx_path, weights)
    footage = read_all_footage(args.cache)
    windows = test_windows(footage)
    runs = all_runs(args.seeds)
    run_all(runs, weights, args.cache, args.output, args.steps, args.workers)
    return {
        "versions": {"xvit": __version__, "torch": torch.__version__},
        "weights": parity,
        "steps": args.steps,
        "footage": [{"name": video.name, "rate": video.rate, "test_windows": len(video.test)} for video in footage],
        "blocks": window_blocks(windows),
        "runs": [read_json(args.output / "runs" / f"{run.name}.json") for run in runs],
        "agreement": real_use.measure_agreement(args.output, footage),
        "patches": real_use.measure_patches(real_sources.fetch_videos(args.cache), weights),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is downloaded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, each with one thread")
    parser.add_argument("--times", action="store_true", help="only time a frame")
    args = parser.parse_args()
    args.cache, args.output = args.cache.resolve(), args.output.resolve()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "results.json"
    result = read_json(path) if path.is_file() else {}
    try:
        result |= {"times": real_use.measure_times(args.cache)} if args.times else measure(args)
    except XViTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(path, result)
    print(real_report.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
