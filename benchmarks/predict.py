"""From files to labels: where the time of a prediction goes, and what reading ahead gains.

    python benchmarks/predict.py [--videos 50] [--backbone vit_base_patch16_224] [--num-frames 8] [--json]

Made videos of 320 x 240, a random model of the given backbone. First each clip by itself in one process: the shares of
decoding, transforming and the model. Then all of them through `Predictor.predict` with none, one and two reading
processes. Last, how long the command line takes to say what it can do, and to predict one clip.
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

from common import tell
from xvit import Predictor, create_model
from xvit.data.decode import VideoInfo, read_clip
from xvit.data.sampling import sample_indices
from xvit.data.synthetic.motion import encode_video
from xvit.data.transforms import eval_views


def write_videos(folder: Path, number: int) -> list[Path]:
    """Videos of 90 frames: a bright square that wanders over noise."""
    paths = [folder / f"{index}.mp4" for index in range(number)]
    for index, path in enumerate(paths):
        rng = np.random.default_rng(index)
        frames = np.repeat(rng.integers(0, 90, (1, 240, 320, 3), dtype=np.uint8), 90, axis=0)
        frames += rng.integers(0, 12, frames.shape, dtype=np.uint8)
        for t in range(90):
            frames[t, 60:120, t : t + 60] = 220
        encode_video(frames, path)
    return paths


def shares(predictor: Predictor, paths: list[Path]) -> dict[str, float]:
    """Median milliseconds a clip of each part, one clip after the other in this process."""
    spec = predictor.clip_spec
    seconds: dict[str, list[float]] = {"decode": [], "transform": [], "normalise and model": []}

    def choose(info: VideoInfo) -> np.ndarray:
        return sample_indices(spec, info.num_frames)

    for path in paths:
        marks = [time.perf_counter()]
        clip = read_clip(path, choose, short_side=spec.image_size)
        marks.append(time.perf_counter())
        views = eval_views(clip.frames, spec)
        marks.append(time.perf_counter())
        predictor.predict_probabilities(views[None])
        marks.append(time.perf_counter())
        for name, start, end in zip(seconds, marks, marks[1:], strict=False):
            seconds[name].append(1e3 * (end - start))
    return {name: statistics.median(values) for name, values in seconds.items()}


def command_seconds(*words: str) -> float:
    """Median wall time of python with these words over five runs, after one."""
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--checkpoint", help="of a trained or exported model, instead of a random one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        tell(f"writing {args.videos} videos")
        paths = write_videos(Path(folder), args.videos)
        model = args.checkpoint or create_model(args.backbone, num_classes=174, num_frames=args.num_frames)
        predictor = Predictor(model)
        predictor(paths[0])  # warm
        found: dict[str, float] = shares(predictor, paths)
        for num_workers in (0, 1, 2):
            start = time.perf_counter()
            answers = list(predictor.predict(paths, num_workers=num_workers))
            assert len(answers) == len(paths)
            found[f"all, {num_workers} workers"] = 1e3 * (time.perf_counter() - start) / len(paths)
        checkpoint = Path(folder) / "model"
        if args.checkpoint is None:
            predictor.model.save_pretrained(checkpoint)
        where = args.checkpoint or str(checkpoint)
        found["xvit --help"] = 1e3 * command_seconds("-m", "xvit", "--help")
        words = ("-m", "xvit", "predict", str(paths[0]), "--checkpoint", where)
        found["xvit predict, one clip"] = 1e3 * command_seconds(*words)
        found["of it imports"] = 1e3 * command_seconds("-c", "import xvit.inference.predictor")
        found["of these torch, torchvision, timm"] = 1e3 * command_seconds("-c", "import timm, torchvision")
    if args.json:
        print(json.dumps(found, indent=2))
        return
    parts = ("decode", "transform", "normalise and model")
    total = sum(found[name] for name in parts)
    print(f"{args.videos} videos, {args.checkpoint or args.backbone}, {torch.get_num_threads()} threads; medians")
    for name, value in found.items():
        share = f"{100 * value / total:5.1f} %" if name in parts else ""
        print(f"{name:34} {value:9.1f} ms {share}")


if __name__ == "__main__":
    main()
