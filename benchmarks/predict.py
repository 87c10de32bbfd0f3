"""Time of a prediction from file to label, and the gain of reading in parallel.

    python benchmarks/predict.py [--videos 50] [--backbone vit_base_patch16_224] [--num-frames 8] [--json]

The videos are synthetic, 320 x 240 pixels; the model has random weights. Measured are: decoding, transforms and model
for single clips in one process; `Predictor.predict` on all videos with 0, 1 and 2 reading processes; the command line,
for its help text and for one clip.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from common import log_progress
from xvit import Predictor, create_model
from xvit.data.decode import VideoInfo, read_clip
from xvit.data.sampling import sample_indices
from xvit.data.synthetic.dataset import encode_video
from xvit.data.transforms import as_tensor, eval_views


def write_videos(folder: Path, num_videos: int) -> list[Path]:
    """Write videos of 90 frames, in which a bright square moves over noise."""
    paths = [folder / f"{index}.mp4" for index in range(num_videos)]
    for index, path in enumerate(paths):
        rng = np.random.default_rng(index)
        frames = np.repeat(rng.integers(0, 90, (1, 240, 320, 3), dtype=np.uint8), 90, axis=0)
        frames += rng.integers(0, 12, frames.shape, dtype=np.uint8)
        for t in range(90):
            frames[t, 60:120, t : t + 60] = 220
        encode_video(frames, path)
    return paths


def measure_parts(predictor: Predictor, paths: list[Path]) -> dict[str, float]:
    """Median milliseconds per clip of each part, for one clip at a time in this process."""
    clip_spec = predictor.clip_spec
    milliseconds: dict[str, list[float]] = {"decode": [], "transform": [], "normalise and model": []}

    def choose_frames(info: VideoInfo) -> np.ndarray:
        return sample_indices(clip_spec, info.num_frames)

    for path in paths:
        times = [time.perf_counter()]
        clip = read_clip(path, choose_frames, short_side=clip_spec.image_size)
        times.append(time.perf_counter())
        views = eval_views(as_tensor(clip.frames), clip_spec)
        times.append(time.perf_counter())
        predictor.predict_probabilities(views[None])
        times.append(time.perf_counter())
        for name, start, end in zip(milliseconds, times, times[1:], strict=False):
            milliseconds[name].append(1e3 * (end - start))
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def command_seconds(*arguments: str) -> float:
    """Median wall time of python with these arguments over five runs, after a warm-up run."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--checkpoint", help="a trained or exported model instead of a random one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        log_progress(f"writing {args.videos} videos")
        paths = write_videos(Path(folder), args.videos)
        model = args.checkpoint or create_model(args.backbone, num_classes=174, num_frames=args.num_frames)
        predictor = Predictor(model)
        predictor(paths[0])  # warm-up
        results = measure_parts(predictor, paths)
        for num_workers in (0, 1, 2):
            start = time.perf_counter()
            predictions = list(predictor.predict(paths, num_workers=num_workers))
            assert len(predictions) == len(paths)
            results[f"all, {num_workers} workers"] = 1e3 * (time.perf_counter() - start) / len(paths)
        checkpoint = Path(folder) / "model"
        if args.checkpoint is None:
            predictor.model.save_pretrained(checkpoint)
        results["xvit --help"] = 1e3 * command_seconds("-m", "xvit", "--help")
        arguments = ("-m", "xvit", "predict", str(paths[0]), "--checkpoint", args.checkpoint or str(checkpoint))
        results["xvit predict, one clip"] = 1e3 * command_seconds(*arguments)
        results["  imports"] = 1e3 * command_seconds(
            "-c", "import xvit.inference.trained, xvit.inference.predictor, xvit.data.dataset"
        )
        results["    torch, torchvision, timm"] = 1e3 * command_seconds("-c", "import timm, torchvision")
    if args.json:
        print(json.dumps(results, indent=2))
        return
    parts = ("decode", "transform", "normalise and model")
    total = sum(results[name] for name in parts)
    print(f"{args.videos} videos, {args.checkpoint or args.backbone}, {torch.get_num_threads()} threads; medians")
    for name, value in results.items():
        share = f"{100 * value / total:5.1f} %" if name in parts else ""
        print(f"{name:34} {value:9.1f} ms {share}")


if __name__ == "__main__":
    main()
