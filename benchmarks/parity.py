"""How far exported models are from the trained one on decoded videos of mixed sizes.

    python benchmarks/parity.py --checkpoint run/best --exports onnx openvino raw [--sizes small] [--full-size]

The videos are generated: motion clips (`xvit data motion`) enlarged to the sizes in turn and encoded as H.264. The
scores are those of `Predictor` for each model: an export reads and resizes in NumPy, the trained model in torch. A
program for raw frames (`xvit export --raw-frames`) is given the decoded frames, as in examples/raw_frames.py, where
large ones are shrunk during colour conversion; with --full-size they are not.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from common import log_progress
from xvit import Predictor
from xvit.config import DataConfig
from xvit.data.annotations import Sample
from xvit.data.reading import read_test_clips
from xvit.data.synthetic.dataset import encode_video
from xvit.data.synthetic.motion import CLASSES, render_clip
from xvit.export import ExportedModel

SIZES = {  # width, height
    "small": [(50, 50), (52, 48), (60, 60), (64, 48), (72, 64), (48, 80), (80, 60), (96, 54), (90, 90), (96, 72)],
    "mixed": [(64, 48), (320, 240), (640, 360), (360, 640), (1280, 720)],
}


def write_videos(folder: Path, num_videos: int, sizes: list[tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Write videos of all classes and sizes in turn; yield the path and the size of each."""
    for index in range(num_videos):
        rng = np.random.default_rng([7, index])
        size = sizes[index % len(sizes)]
        frames = render_clip(CLASSES[index % len(CLASSES)], rng)
        enlarged = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]
        path = folder / f"{index:03d}.mp4"
        encode_video(np.stack(enlarged), path)
        yield str(path), size


def predict(predictor: Predictor, path: str, *, full_size: bool) -> np.ndarray:
    """The scores of a video, in the order of the model's classes."""
    model = predictor.model
    if isinstance(model, ExportedModel) and model.manifest.raw_frames:
        sample = Sample(path=path, label=None, id=path)
        clip = read_test_clips(sample, model.clip_spec, 1, DataConfig.decode_timeout, shrink=not full_size)
        return model(clip.frames[None])[0]
    prediction = predictor(path)
    scores = dict(zip(prediction.labels, prediction.scores, strict=True))
    return np.array([scores[name] for name in predictor.class_names])


def compare(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The differences of the scores (N, classes) of N videos."""
    differences = np.abs(expected - found).max(axis=1)
    agreement = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
    return {"largest": differences.max(), "median": np.median(differences), "same_class": agreement}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a trained model of one task, such as that of xvit demo")
    parser.add_argument("--exports", nargs="+", required=True, help="folders written by xvit export")
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--sizes", choices=SIZES, default="mixed")
    parser.add_argument("--full-size", action="store_true", help="raw frames as large as they are in the video")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    predictors = {name: Predictor(name, device="cpu") for name in (args.checkpoint, *args.exports)}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in predictors}
    sizes = []
    with TemporaryDirectory() as folder:
        for path, size in write_videos(Path(folder), args.videos, SIZES[args.sizes]):
            log_progress(f"video {len(sizes) + 1} of {args.videos}, {size[0]} x {size[1]}")
            sizes.append(f"{size[0]}x{size[1]}")
            for name, predictor in predictors.items():
                scores[name].append(predict(predictor, path, full_size=args.full_size))
    expected = np.stack(scores[args.checkpoint])
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in args.exports:
        found, groups = np.stack(scores[name]), {"all": np.full(len(sizes), True)}
        groups |= {size: np.array(sizes) == size for size in dict.fromkeys(sizes)}
        results[name] = {group: compare(expected[rows], found[rows]) for group, rows in groups.items()}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{args.videos} videos; largest and median difference of a video's scores, same best class")
    for name, groups in results.items():
        for group, values in groups.items():
            same = f"{100 * values['same_class']:.0f} %"
            print(f"{name:24} {group:10} {values['largest']:.1e} {values['median']:.1e} {same:>6}")


if __name__ == "__main__":
    main()
