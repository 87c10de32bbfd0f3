"""Clips a second of our loader against the straightforward way and against other libraries, in one interleaved run.

    python benchmarks/loader.py [--videos 24] [--rounds 5] [--keyframes 250] [--json]

Made videos: 340 x 256, 10 s at 30 frames/s, H.264. A clip is 16 frames at stride 4 from a random start; scale jitter,
crop to 224, flip and AutoAugment as in recipes/kinetics400.yaml, then normalised floats, ready for the model. All ways
share the DataLoader of torch, its workers and torchvision's transforms; they differ in how frames are read and in the
order of things:

    straightforward   PyAV decodes from the first frame on, each frame to RGB; torchvision resizes, crops, ...
    decord, torchcodec, pytorchvideo    their readers, then as above; those that are installed and work
    xvit              `VideoDataset` and `make_loader`
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

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from common import log_progress
from xvit.config import AugmentConfig, ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.decode import VideoInfo, probe, read_clip
from xvit.data.loader import make_loader
from xvit.data.sampling import sample_indices
from xvit.data.transforms import TrainTransform, normalize
from xvit.utils.timing import time_interleaved

WIDTH, HEIGHT, FRAMES, RATE = 340, 256, 300, 30
T, STRIDE, SIZE, BATCH = 16, 4, 224, 4
JITTER = (1.03, 1.49)
SPEC = ClipSpec(
    num_frames=T,
    sampling="strided",
    stride=STRIDE,
    image_size=SIZE,
    interpolation="bilinear",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
TRAINING = AugmentConfig(scale_jitter=JITTER, horizontal_flip=0.5, auto_augment="auto")


def write_video(path: Path, *, seed: int, keyframes: int) -> None:
    """A textured background that drifts, three textured things that cross it, and grain."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 24, 32), dtype=np.float32))
    ground = v2.functional.resize(coarse, [2 * HEIGHT, 2 * WIDTH])[0].permute(1, 2, 0).numpy() * 200
    ground += rng.normal(0, 12, ground.shape)
    things = rng.integers(0, 255, (3, 48, 48, 3))
    starts, speeds = rng.integers(0, HEIGHT - 48, (3, 2)), rng.integers(-4, 5, (3, 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": str(keyframes), "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            y, x = number * HEIGHT // FRAMES, number * WIDTH // FRAMES
            picture = ground[y : y + HEIGHT, x : x + WIDTH].copy()
            for thing, start, speed in zip(things, starts, speeds, strict=True):
                top, left = (start + speed * number) % (HEIGHT - 48)
                picture[top : top + 48, left : left + 48] = thing
            picture += rng.normal(0, 3, picture.shape)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def by_pyav(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    with av.open(path) as container:
        wanted = choose(container.streams.video[0].frames)
        frames = {}
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number == wanted.max():
                break
    return torch.from_numpy(np.stack([frames[number] for number in wanted])).permute(0, 3, 1, 2)


def by_decord(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from decord import VideoReader

    reader = VideoReader(path, num_threads=1)
    return torch.from_numpy(reader.get_batch(choose(len(reader))).asnumpy()).permute(0, 3, 1, 2)


def by_torchcodec(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_at(indices=choose(decoder.metadata.num_frames).tolist()).data


def by_pytorchvideo(path: str, choose: Callable[[int], np.ndarray]) -> Tensor:
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(path, decode_audio=False)
    first = choose(FRAMES)[0] / RATE
    frames = video.get_clip(first, first + T * STRIDE / RATE)["video"]  # (C, frames, H, W) float
    chosen = torch.linspace(0, frames.shape[1] - 1, T).long()
    return frames[:, chosen].permute(1, 0, 2, 3).to(torch.uint8)


READERS = {
    "straightforward": by_pyav,
    "decord": by_decord,
    "torchcodec": by_torchcodec,
    "pytorchvideo": by_pytorchvideo,
}


class Straightforward(Dataset[Tensor]):
    """Clips by one of the readers and torchvision's transforms in their textbook order."""

    def __init__(self, read: Callable[[str, Callable[[int], np.ndarray]], Tensor], files: list[str]) -> None:
        self.read, self.files = read, files
        self.rest = v2.Compose(
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
        short = int(rng.integers(int(SIZE * JITTER[0]), int(SIZE * JITTER[1]) + 1))
        return self.rest(v2.functional.resize(frames, [short], antialias=True))


def passes(files: list[str], num_workers: int) -> dict[str, Callable[[], None]]:
    """One pass over the files, by each way."""
    made: dict[str, Callable[[], None]] = {}
    options = {"persistent_workers": True, "worker_init_fn": _one_thread} if num_workers else {}
    for name, read in READERS.items():
        if name == "straightforward" or (find_spec(name) and works(name, files[0])):
            loader = DataLoader(Straightforward(read, files), BATCH, num_workers=num_workers, **options)
            made[name] = partial(_consume, loader)
    ours = VideoDataset(samples=[_sample(file) for file in files], clip_spec=SPEC, augment=TRAINING)
    made["xvit"] = partial(_consume_ours, make_loader(ours, batch_size=BATCH, num_workers=num_workers))
    return made


def works(name: str, file: str) -> bool:
    """Whether a library reads a clip here; if not, it is said why. Tried in a process of its own: decord, once used,
    hangs in processes forked afterwards.
    """
    code = f"import loader, numpy; loader.READERS[{name!r}]({file!r}, lambda count: numpy.arange(loader.T))"
    here = str(Path(__file__).parent)
    tried = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    if tried.returncode:
        log_progress(f"{name} is left out: {tried.stderr.strip().splitlines()[-1]}")
    return not tried.returncode


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _consume(loader: DataLoader) -> None:
    for batch in loader:
        assert batch.dtype == torch.float32


def _consume_ours(loader: DataLoader) -> None:
    for batch in loader:
        normalize(batch["pixels"], SPEC)


def _sample(file: str) -> Sample:
    return Sample(path=file, label=0, id=file)


def _choose(rng: np.random.Generator, info: VideoInfo) -> np.ndarray:
    return sample_indices(SPEC, info.num_frames, rng=rng)


def where(files: list[str]) -> dict[str, float]:
    """Milliseconds of a clip in each part of our loader."""
    rng, parts = (
        np.random.default_rng(0),
        {"open and scan": [], "decode": [], "transform": [], "collate, normalise": []},
    )
    dataset = VideoDataset(samples=[_sample(file) for file in files], clip_spec=SPEC, augment=TRAINING)
    transform = TrainTransform(SPEC, TRAINING)
    for place, file in enumerate(files):
        moments = [time.perf_counter()]
        probe(file)
        moments.append(time.perf_counter())
        choose = partial(_choose, rng)
        clip = read_clip(file, choose, short_side=int(SIZE * JITTER[1]))
        moments.append(time.perf_counter())
        transform(clip.frames)
        moments.append(time.perf_counter())
        item = dataset[place]
        moments.append(time.perf_counter())
        normalize(dataset.collate([item])["pixels"], SPEC)
        moments.append(time.perf_counter())
        scan, read, transformed, _, joined = np.diff(moments)
        for name, seconds in zip(parts, (scan, read - scan, transformed, joined), strict=True):
            parts[name].append(1000 * seconds)
    return {name: statistics.median(values) for name, values in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keyframes", type=int, default=250, help="frames from one keyframe to the next, at most")
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
        for num_workers in (2, 0):  # in this order, for decord's sake
            log_progress(f"{num_workers} workers, {args.rounds} rounds")
            seconds = time_interleaved(passes(files, num_workers), rounds=args.rounds)
            for name, values in seconds.items():
                gains = [base / own for base, own in zip(seconds["straightforward"], values, strict=True)]
                rows.append(
                    {
                        "num_workers": num_workers,
                        "loader": name,
                        "clips_per_second": args.videos / statistics.median(values),
                        "over_straightforward": statistics.median(gains),
                        "quartiles": statistics.quantiles(gains, n=4)[::2],
                    }
                )
        log_progress("where our time goes")
        parts = where(files)
    if args.json:
        print(json.dumps({"kbit_per_second": rate, "keyframes": args.keyframes, "rows": rows, "milliseconds": parts}))
        return
    print(f"{args.videos} videos of {rate:.0f} kbit/s, a keyframe every {args.keyframes}; torch {torch.__version__}\n")
    print(f"{'workers':>7} {'loader':16} {'clips/s':>8} {'over straightforward':>26}")
    for row in rows:
        low, high = row["quartiles"]
        gain = f"{row['over_straightforward']:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{row['workers']:7} {row['loader']:16} {row['clips_per_second']:8.2f} {gain:>26}")
    print("\nms a clip in ours, one process: " + ", ".join(f"{name} {value:.1f}" for name, value in parts.items()))


if __name__ == "__main__":
    sys.exit(main())
