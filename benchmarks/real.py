"""Real image weights and real videos: what mixing gives beside the spatial model, on tasks with free labels.

    python benchmarks/real.py --cache CACHE --output OUTPUT [--seeds 3] [--tune head lora full] [--steps 60]
        [--workers 2]
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import real_report
import real_sources
import real_use
import real_weights
from common import log_progress
from real_tasks import Footage, read_footage, test_windows, window_blocks
from real_training import TUNE, Run, all_runs, build_model, frame_vectors, train
from xvit.utils.errors import XViTError
from xvit.utils.files import publish, read_json, write_json
from xvit.utils.version import __version__


def read_all_footage(cache: Path) -> list[Footage]:
    """The footage of all videos of the cache that are long enough for the tasks."""
    videos = (read_footage(path) for path in real_sources.fetch_videos(cache))
    return [video for video in videos if video is not None]


def vectors_path(output: Path, run: Run) -> Path:
    """The file of the frame vectors that all seeds and ways of a task and scheme share."""
    return output / "vectors" / f"{run.task}-{run.scheme.replace(', ', '-')}.safetensors"


def embed_one(run: Run, weights: Path, cache: Path, output: Path, steps: int) -> None:
    """Write the frame vectors of one task and scheme."""
    torch.set_num_threads(1)
    path = vectors_path(output, run)
    model = build_model(weights, run.scheme).eval()
    tmp_path = path.with_name(f".{path.name}")
    save_file(frame_vectors(model, run.task, read_all_footage(cache)), tmp_path)
    publish(tmp_path, path)


def run_one(run: Run, weights: Path, cache: Path, output: Path, steps: int) -> None:
    """Train and test one model, and write its file. One model of each task is kept for `real_use`."""
    torch.set_num_threads(1)
    vectors = load_file(vectors_path(output, run))
    model, result = train(run, weights, read_all_footage(cache), vectors, steps)
    if run == real_use.kept_run(run.task):
        model.save_pretrained(output / "models" / run.name)
    write_json(run_path(output, run), result)


def run_path(output: Path, run: Run) -> Path:
    """The file of a training's result."""
    return output / "runs" / f"{run.name}.json"


def run_all(jobs: dict[Path, Run], work: Callable[..., None], workers: int, *args: Any) -> None:
    """Do what has no file yet, several at a time, each with one thread."""
    rest = {path: run for path, run in jobs.items() if not path.is_file()}
    for path in rest:
        path.parent.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(work, run, *args): path for path, run in rest.items()}
        for done, future in enumerate(as_completed(futures), start=len(jobs) - len(rest) + 1):
            future.result()
            log_progress(f"{done} of {len(jobs)}: {futures[future].stem}")
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
    runs = all_runs(args.seeds, args.tune)
    shared = (weights, args.cache, args.output, args.steps)
    log_progress("frame vectors of the frozen image model")
    run_all({vectors_path(args.output, run): run for run in runs}, embed_one, args.workers, *shared)
    log_progress("trainings")
    run_all({run_path(args.output, run): run for run in runs}, run_one, args.workers, *shared)
    return {
        "versions": {"xvit": __version__, "torch": torch.__version__},
        "weights": parity,
        "steps": args.steps,
        "footage": [{"name": video.name, "rate": video.rate, "test_windows": len(video.test)} for video in footage],
        "blocks": window_blocks(windows),
        "runs": [read_json(path) for path in sorted((args.output / "runs").glob("*.json"))],
        "agreement": real_use.measure_agreement(args.output, footage),
        "patches": real_use.measure_patches(real_sources.fetch_videos(args.cache), weights),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is downloaded")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", nargs="+", choices=TUNE, default=list(TUNE), help="what is trained")
    parser.add_argument("--steps", type=int, default=60, help="of lora and full, of 8 clips each")
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
