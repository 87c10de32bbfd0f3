"""Clips per second of xvit's loader, of a naive one and of other libraries, measured in one interleaved run.

    python benchmarks/loader.py [--videos 24] [--rounds 5] [--keyframes 250] [--json]

Synthetic videos: 340 x 256, 10 s at 30 frames per second, H.264. A clip is 16 frames at stride 4 from a random start,
with scale jitter, a crop of 224, flips and AutoAugment as in recipes/kinetics400.yaml, as normalised floats, ready for
the model. All loaders use torch's DataLoader with the same number of workers, and torchvision's transforms. They differ
in how they read frames and in the order of the steps:

    naive        PyAV decodes from the first frame and converts each frame to RGB; torchvision resizes, crops, ...
    decord, torchcodec, pytorchvideo    their readers, then as above; those that are installed and work
    xvit         `VideoDataset` and `make_loader`
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from common import Step, log_progress
from xvit.config import AugmentConfig, ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.decode import VideoInfo, probe, read_clip
from xvit.data.loader import make_loader
from xvit.data.sampling import sample_indices
from xvit.data.transforms import TrainTransform, as_tensor, normalize
from xvit.utils.timing import time_interleaved

WIDTH, HEIGHT, FRAMES, RATE = 340, 256, 300, 30
T, STRIDE, SIZE, BATCH = 16, 4, 224, 4
JITTER = (1.03, 1.49)
SPEC = ClipSpec(
    num_frames=T,
    sampling="strided",
    stride=STRIDE,
    frame_rate=None,
    image_size=SIZE,
    interpolation="bilinear",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
TRAINING = AugmentConfig(scale_jitter=JITTER, horizontal_flip=0.5, auto_augment="auto")


def write_video(path: Path, *, seed: int, keyframes: int) -> None:
    """Write a drifting textured background, crossed by three textured squares, with noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 24, 32), dtype=np.float32))
    ground = v2.functional.resize(coarse, [2 * HEIGHT, 2 * WIDTH])[0].permute(1, 2, 0).numpy() * 200
    ground += rng.normal(0, 12, ground.shape)
    squares = rng.integers(0, 255, (3, 48, 48, 3))
    starts, speeds = rng.integers(0, HEIGHT - 48, (3, 2)), rng.integers(-4, 5, (3, 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(keyframes), "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            y, x = number * HEIGHT // FRAMES, number * WIDTH // FRAMES
            image = ground[y : y + HEIGHT, x : x + WIDTH].copy()
            for square, start, speed in zip(squares, starts, speeds, strict=True):
                top, left = (start + speed * number) % (HEIGHT - 48)
                image[top : top + 48, left : left + 48] = square
            image += rng.normal(0, 3, image.shape)
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_with_pyav(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    with av.open(path) as container:
        indices = choose(container.streams.video[0].frames)
        frames = {}
        for number, frame in enumerate(container.decode(video=0)):
            if number in indices:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == indices.max():
                break
    return torch.from_numpy(np.stack([frames[number] for number in indices])).permute(0, 3, 1, 2)


def read_with_decord(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from decord import VideoReader

    reader = VideoReader(path, num_threads=1)
    return torch.from_numpy(reader.get_batch(choose(len(reader))).asnumpy()).permute(0, 3, 1, 2)


def read_with_torchcodec(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_at(indices=choose(decoder.metadata.num_frames).tolist()).data


def read_with_pytorchvideo(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(path, decode_audio=False)
    first = choose(FRAMES)[0] / RATE
    frames = video.get_clip(first, first + T * STRIDE / RATE)["video"]  # (C, frames, H, W) float
    chosen = torch.linspace(0, frames.shape[1] - 1, T).long()
    return frames[:, chosen].permute(1, 0, 2, 3).to(torch.uint8)


READERS = {
    "naive": read_with_pyav,
    "decord": read_with_decord,
    "torchcodec": read_with_torchcodec,
    "pytorchvideo": read_with_pytorchvideo,
}


class NaiveDataset(Dataset[Tensor]):
    """Clips from one of the readers, with torchvision's transforms in their usual order."""

    def __init__(self, read: Callable[[str, Callable[[int], np.ndarray]], Tensor], files: list[str]) -> None:
        self.read, self.files = read, files
        self.transform = v2.Compose(
            [
                v2.RandomCrop(SIZE),
                v2.RandomHorizontalFlip(),
                v2.AutoAugment(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(SPEC.mean, SPEC.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng()
        frames = self.read(self.files[index], lambda count: sample_indices(SPEC, count, rng=rng))
        short_side = int(rng.integers(int(SIZE * JITTER[0]), int(SIZE * JITTER[1]) + 1))
        return self.transform(v2.functional.resize(frames, [short_side], antialias=True))


def make_passes(files: list[str], num_workers: int) -> dict[str, Callable[[], None]]:
    """For each loader, a function that makes one pass over the files."""
    passes: dict[str, Step] = {}
    options = {"persistent_workers": True, "worker_init_fn": _use_one_thread} if num_workers else {}
    for name, read in READERS.items():
        if name == "naive" or (find_spec(name) and works(name, files[0])):
            loader = DataLoader(NaiveDataset(read, files), BATCH, num_workers=num_workers, **options)
            passes[name] = partial(_consume, loader)
    dataset = VideoDataset(samples=[_sample(file) for file in files], clip_spec=SPEC, augment=TRAINING)
    passes["xvit"] = partial(_consume_xvit, make_loader(dataset, batch_size=BATCH, num_workers=num_workers))
    return passes


def works(name: str, file: str) -> bool:
    """Whether a library can read a clip; if not, print why.

    It is result in a separate process: after decord has been used, processes that are forked later hang.
    """
    code = f"import loader, numpy; loader.READERS[{name!r}]({file!r}, lambda count: numpy.arange(loader.T))"
    directory = str(Path(__file__).parent)
    result = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=False)
    if result.returncode:
        log_progress(f"{name} is skipped: {result.stderr.strip().splitlines()[-1]}")
    return not result.returncode


def _use_one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)


def _consume(loader: DataLoader[Any]) -> None:
    for batch in loader:
        assert batch.dtype == torch.float32


def _consume_xvit(loader: DataLoader[Any]) -> None:
    for batch in loader:
        normalize(batch["pixels"], SPEC)


def _sample(file: str) -> Sample:
    return Sample(path=file, label=0, id=file)


def _choose_frames(rng: np.random.Generator, info: VideoInfo) -> np.ndarray:
    return sample_indices(SPEC, info.num_frames, rng=rng)


def measure_stages(files: list[str]) -> dict[str, float]:
    """Milliseconds per clip in each stage of xvit's loader."""
    rng = np.random.default_rng(0)
    stages: dict[str, list[float]] = {"open and scan": [], "decode": [], "transform": [], "collate, normalise": []}
    dataset = VideoDataset(samples=[_sample(file) for file in files], clip_spec=SPEC, augment=TRAINING)
    transform = TrainTransform(SPEC, TRAINING)
    for index, file in enumerate(files):
        times = [time.perf_counter()]
        probe(file)
        times.append(time.perf_counter())
        choose_frames = partial(_choose_frames, rng)
        clip = read_clip(file, choose_frames, short_side=int(SIZE * JITTER[1]))
        times.append(time.perf_counter())
        transform(as_tensor(clip.frames))
        times.append(time.perf_counter())
        item = dataset[index]
        times.append(time.perf_counter())
        normalize(dataset.collate([item])["pixels"], SPEC)
        times.append(time.perf_counter())
        scan, read, transformed, _, collated = np.diff(times)
        for name, seconds in zip(stages, (scan, read - scan, transformed, collated), strict=True):
            stages[name].append(1000 * seconds)
    return {name: statistics.median(values) for name, values in stages.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keyframes", type=int, default=250, help="maximum number of frames between keyframes")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        log_progress(f"writing {args.videos} videos")
        files = [str(Path(folder, f"{number}.mp4")) for number in range(args.videos)]
        for number, file in enumerate(files):
            write_video(Path(file), seed=number, keyframes=args.keyframes)
        rate = 8 * sum(Path(file).stat().st_size for file in files) / (args.videos * FRAMES / RATE) / 1e3
        for num_workers in (2, 0):  # workers first: see `works` about decord
            log_progress(f"{num_workers} workers, {args.rounds} rounds")
            seconds = time_interleaved(make_passes(files, num_workers), rounds=args.rounds)
            for name, values in seconds.items():
                speedups = [naive / other for naive, other in zip(seconds["naive"], values, strict=True)]
                rows.append(
                    {
                        "num_workers": num_workers,
                        "loader": name,
                        "clips_per_second": args.videos / statistics.median(values),
                        "speedup": statistics.median(speedups),
                        "quartiles": statistics.quantiles(speedups, n=4)[::2],
                    }
                )
        log_progress("stages of xvit's loader")
        stages = measure_stages(files)
    if args.json:
        print(json.dumps({"kbit_per_second": rate, "keyframes": args.keyframes, "rows": rows, "milliseconds": stages}))
        return
    print(f"{args.videos} videos of {rate:.0f} kbit/s, a keyframe every {args.keyframes}; torch {torch.__version__}\n")
    print(f"{'workers':>7} {'loader':16} {'clips/s':>8} {'speedup over naive':>26}")
    for row in rows:
        low, high = row["quartiles"]
        speedup = f"{row['speedup']:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{row['num_workers']:7} {row['loader']:16} {row['clips_per_second']:8.2f} {speedup:>26}")
    print("\nms per clip in xvit, one process: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()))


if __name__ == "__main__":
    sys.exit(main())
