"""The consumers of `fuzz.py`: each reads a folder of changed files as a user of xvit would, and judges the answer.

A consumer returns one of EXPECTED, raises `XViTError` (refused), or raises `Finding` for what must not be accepted.
"""

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from fuzz_inputs import FPS, NUM_FRAMES, TIMELINE_RUN, run_config, timeline_videos
from xvit.cli.main import main as xvit
from xvit.config import DataConfig, RunConfig, read_config
from xvit.data.annotations import Sample, class_indices, find_videos, load_splits, read_class_names
from xvit.data.capture.source import Source, SourceEvent
from xvit.data.decode import read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.data.tools.check import check_file
from xvit.features.storage import read_features
from xvit.inference.predictor import Predictor
from xvit.timeline.output import open_output
from xvit.training import check_recipe, fit
from xvit.utils.errors import XViTError

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.barcode_videos import barcode_frame, read_number

EXPECTED = ("accepted", "warned", "refused", "unrecognised", "rearranged")
MAX_MESSAGE = 5000  # characters
MAX_DIFFERENCE = 20  # mean grey levels between a frame and the picture of the number that it shows
_TIMEOUT = 120.0  # seconds without a frame; longer than the deadline of an input

Consumer = Callable[[Path, str, Path, np.random.Generator], str]


class Finding(Exception):  # noqa: N818
    """What a consumer must not accept. `kind` is one of those that `fuzz.py` lists."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def show_number(image: np.ndarray) -> int:
    """The number that a frame (H, W, 3) shows; -1 if it is not the picture of any number."""
    number = read_number(image)
    height, width, _ = image.shape
    picture = barcode_frame(number, width=width, height=height)
    difference = np.abs(picture.astype(np.int16) - image.astype(np.int16)).mean()
    return number if number < NUM_FRAMES and difference < MAX_DIFFERENCE else -1


def marked_packets(path: Path) -> Counter[int | None]:
    """The timestamps of the packets that the container marks as damaged.

    Where the times fall back, FFmpeg marks one of the last two packets before, although it may be whole.
    """
    with av.open(str(path), metadata_errors="replace") as container:
        packets = [(packet.pts, packet.dts, packet.is_corrupt) for packet in container.demux(video=0)]
    falls = {i for i, (a, b) in enumerate(pairwise(packets)) if None not in (a[1], b[1]) and b[1] < a[1]}
    return Counter(pts for i, (pts, _, marked) in enumerate(packets) if marked and not falls & {i, i + 1})


def decode_plainly(path: Path) -> list[tuple[int, float | None, bool]]:
    """What PyAV alone decodes in order: each frame's number, its seconds, and whether it depends on damage."""
    decoded: list[tuple[int, float | None, bool]] = []
    with contextlib.suppress(Exception), av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        damaged, marked = False, marked_packets(path)  # since the latest keyframe; those that are not decoded yet
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged, frames = True, []
            for frame in frames:
                damaged = frame.is_corrupt or marked[frame.pts] > 0 or (damaged and not frame.key_frame)
                marked[frame.pts] -= 1
                seconds = None if container.format.name == "avi" else frame.time
                decoded.append((show_number(frame.to_ndarray(format="rgb24")), seconds, damaged))
    return decoded


def check_frames(
    path: Path, indices: Sequence[int], times: Sequence[float], images: Sequence[np.ndarray], warned: bool
) -> str:
    """Compare the numbers that frames show with their indices and times (seconds)."""
    shown = [(int(i), float(t), n) for i, t, n in zip(indices, times, map(show_number, images), strict=True)]
    if warned:
        return "warned"
    if not shown or min(number for _, _, number in shown) < 0:
        return "unrecognised"
    index_0, time_0, number_0 = shown[0]
    wrong = [
        (index, time, number)
        for index, time, number in shown
        if number - number_0 not in (index - index_0, round((time - time_0) * FPS))
    ]
    if number_0 != index_0:  # has the file lost its start? The others are right if the first one is
        wrong.insert(0, shown[0])
    if not wrong:
        return "accepted"
    plain = decode_plainly(path) if path.is_file() else []
    start = next((seconds for _, seconds, _ in plain if seconds is not None), 0.0)
    ascending = all(a[1] is not None and b[1] is not None and a[1] < b[1] for a, b in pairwise(plain))
    for index, time, number in wrong:
        same_time = [frame for frame in plain if frame[1] is not None and abs(frame[1] - start - time) < 0.25 / FPS]
        same_index = [] if ascending else plain[index : index + 1]  # else its time must be right, too
        if not any(shows == number and not damaged for shows, _, damaged in (*same_time, *same_index)):
            raise Finding(
                "wrong frame", f"index {index} at {time:.2f} s shows {number}; in order: {same_time, same_index}"
            )
    return "rearranged"


def read_video(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    """Read frames as training and prediction do, as `timeline` does, as `stream` does, and as `data check` does."""
    path = next(folder.iterdir())
    results: list[str] = []
    ways: list[Callable[[], str]] = [partial(_read_clip, path, rng)]
    if path.is_file():
        ways.append(partial(_read_in_order, path, int(rng.integers(1, 4))))
        ways.append(partial(_read_source, path))
    ways.append(partial(_check_video, path, full=bool(rng.integers(2))))
    for way in ways:
        try:
            results.append(way())
        except XViTError as error:
            check_message(error)
            results.append("refused")
    return next(name for name in ("rearranged", "unrecognised", "warned", "refused", "accepted") if name in results)


def _read_clip(path: Path, rng: np.random.Generator) -> str:
    def choose(info: Any) -> np.ndarray:
        return np.union1d(0, rng.integers(info.num_frames, size=6))

    clip = read_clip(path, choose, fps=FPS, strict=bool(rng.integers(2)))
    images = list(clip.frames)
    return check_frames(path, clip.indices.tolist(), clip.times.tolist(), images, bool(clip.warnings))


def _read_in_order(path: Path, stride: int) -> str:
    reader = FrameReader(path, stride=stride)
    times: list[float] = []
    images: list[np.ndarray] = []
    for seconds, frames in reader:
        times.extend(seconds.tolist())
        images.extend(frames)
    indices = [stride * number for number in range(len(times))]
    return check_frames(path, indices, times, images, bool(reader.damage or reader.warnings))


def _read_source(path: Path) -> str:
    items = list(Source(str(path), timeout=_TIMEOUT).frames())
    frames = [item for item in items if not isinstance(item, SourceEvent)]
    warned = any(isinstance(item, SourceEvent) and item.kind != "opened" for item in items)
    images = [frame.pixels for frame in frames]
    return check_frames(path, [frame.index for frame in frames], [frame.time for frame in frames], images, warned)


def _check_video(path: Path, *, full: bool) -> str:
    report = check_file([Sample(path=str(path), label=None, id="id", fps=FPS)], full=full)
    return "refused" if report.kind else "accepted"


def read_annotations(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    train = next(folder.glob("train.*"))
    labels = tuple(str(path) for path in folder.glob("labels.*"))
    settings: dict[str, Any] = {"format": case.partition("-")[0], "multi_label": case == "list-multi"}
    config = DataConfig(
        root=str(seeds / "placeholders"),
        train=str(train),
        label_files=(labels * 2 if case == "epic" else labels) if rng.random() < 0.7 else (),
        max_missing_fraction=float(rng.integers(2)),
        **settings,
    )
    for path in labels:
        with contextlib.suppress(XViTError):
            read_class_names(path)
    with contextlib.suppress(XViTError):
        find_videos([train], root=config.root)
    splits = load_splits(config, strict=bool(rng.integers(2)))
    names = splits.class_names if isinstance(splits.class_names, dict) else {"label": splits.class_names}
    for sample in splits.train:
        for task, task_names in names.items():
            if not all(0 <= index < len(task_names) for index in class_indices(sample.label, task)):
                raise Finding("wrong value", f"label {sample.label} of {len(task_names)} classes")
    return "warned" if splits.problems or splits.missing else "accepted"


def read_recipe(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    check_recipe(read_config(RunConfig, folder / "recipe.yaml"))
    return "accepted"


def read_model(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    """Load a checkpoint or an exported model, and classify a video with it."""
    prediction = Predictor(folder)(next((seeds / "colors" / "val").rglob("*.mp4")))
    scores = prediction.scores if isinstance(prediction.scores, dict) else {"label": prediction.scores}
    if not all(np.isfinite(values).all() for values in scores.values()):
        raise Finding("wrong value", f"probabilities {scores}")
    return "warned" if prediction.warnings else "accepted"


def resume_run(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    result = fit(run_config(seeds), folder, resume=True)
    if not np.isfinite(list(result.metrics.values())).all():
        raise Finding("wrong value", f"metrics {result.metrics}")
    return "accepted"


def convert(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    source = folder / "source" if case == "folder" else next(folder.glob("source.*"))
    output = folder / ("output.yaml" if case == "recipe" else "output")
    options = (
        ["--num-frames", "4", "--num-heads", "3", "--mix-ratio", "0.25"] if case in ("pyth", "safetensors") else []
    )
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = xvit(["convert", str(source), "--output", str(output), *options])
    text = stderr.getvalue().strip()
    if "Traceback" in text or "please report" in text:
        raise Finding("error", text)
    if code:
        raise XViTError(text)
    return "accepted"


def read_feature_file(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    features = read_features(next(path for path in folder.iterdir() if path.suffix != ".json"))
    features.values.sum()  # of a .npy they are on disk
    return "accepted"


def read_timeline(folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    videos = timeline_videos(seeds)
    output = open_output(folder, TIMELINE_RUN, videos)
    finished = [output.read_result(video) for video in videos if output.is_finished(video)]
    return "accepted" if len(finished) == len(videos) else "warned"


CONSUMERS: dict[str, tuple[float, Consumer]] = {
    "video": (0.55, read_video),
    "annotations": (0.2, read_annotations),
    "recipe": (0.04, read_recipe),
    "checkpoint": (0.07, read_model),
    "export": (0.03, read_model),
    "run": (0.03, resume_run),
    "convert": (0.04, convert),
    "features": (0.03, read_feature_file),
    "timeline": (0.01, read_timeline),
}  # with their share of the inputs


def check_message(error: XViTError) -> None:
    """Raise `Finding` unless the message, as the command line prints it, is a line that a person can read."""
    text = " ".join(str(error).split())
    if not text or len(text) > MAX_MESSAGE:
        raise Finding("wrong value", f"a message of {len(text)} characters: {text[:100]}")
