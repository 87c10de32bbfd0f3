"""Writing the built-in data set: two-second clips in class folders, as H.264 files."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from xvit.data.synthetic.background import BACKGROUND, render_background
from xvit.data.synthetic.motion import CLASSES, FPS, render_clip
from xvit.utils.errors import check_range
from xvit.utils.files import atomic_directory, check_new_directory
from xvit.utils.threads import available_cores

QUANTISER = 20  # constant H.264 quantiser; 0 is lossless, 23 the default of the encoder
BACKGROUND_SHARE = 3  # background clips per clip of any other class: its videos are the most diverse
MAX_FPS = 240

Part = Callable[[], np.ndarray]  # draws frames (T, H, W, 3), uint8


def encode_video(frames: np.ndarray, path: str | Path, *, fps: float = FPS) -> None:
    """Write frames (T, H, W, 3), uint8, as H.264 in MP4, with keyframes only, at `fps` frames per second.

    No frame refers to another one (the residue of predicted frames would trail behind a moving shape) and the quantiser
    is constant (rate control would drift along the clip), so reversed frames decode to the same pixels in reverse.
    """
    options = {"qp": str(QUANTISER), "preset": "veryfast", "x264-params": "keyint=1:scenecut=0:aq-mode=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # supported by every player and browser
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_motion_dataset(
    output: str | Path,
    *,
    clips_per_class: int,
    seed: int = 0,
    val_fraction: float = 0.2,
    fps: float = FPS,
    background: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write output/train/<class>/0000.mp4 ... and output/val/<class>/0000.mp4 ..., as `write_videos` does.

    Each clip is a function of (seed, split, class, index) only. The two splits are drawn independently, and a larger
    data set contains the training clips of a smaller one.

    Args:
        output: directory to create; may exist if it is empty.
        clips_per_class: number of clips per class, both splits together.
        seed: random seed.
        val_fraction: fraction held out for validation, rounded to whole clips.
        fps: frames per second; the same motions are drawn at these times.
        background: add the class `BACKGROUND`, with `BACKGROUND_SHARE` times as many clips. The others stay the same.
        on_progress: called with (clips written, total clips) after each clip.

    Raises:
        XViTError: a value out of its range; `output` is a file or not empty.
    """
    check_range("clips_per_class", clips_per_class, 1)
    check_range("seed", seed, 0)
    check_range("val_fraction", val_fraction, 0, 1)
    check_range("fps", fps, 1, MAX_FPS)
    num_val = round(clips_per_class * val_fraction)
    videos: dict[str, list[Part]] = {}
    for number, (split, count) in enumerate({"train": clips_per_class - num_val, "val": num_val}.items()):
        for key, label in enumerate((*CLASSES, BACKGROUND) if background else CLASSES):
            for index in range(count * BACKGROUND_SHARE if label == BACKGROUND else count):
                rng = np.random.default_rng([seed, number, key, index])
                draw = partial(render_background, rng) if label == BACKGROUND else partial(render_clip, label, rng)
                videos[f"{split}/{label}/{index:04d}.mp4"] = [partial(draw, fps=fps)]
    write_videos(output, videos, fps=fps, on_progress=on_progress)


def write_videos(
    output: str | Path,
    videos: Mapping[str, Sequence[Part]],
    *,
    fps: float,
    texts: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write videos of one or more parts, in parallel. The directory appears only once it is complete.

    Args:
        output: directory to create; may exist if it is empty.
        videos: the parts of each video, by its path in the directory; each is drawn once.
        fps: frames per second.
        texts: the contents of other files, by name.
        on_progress: called with (videos written, total videos) after each video.
    """
    check_new_directory(output, "choose another one or remove it")
    with atomic_directory(output) as directory:

        def write_video(name: str) -> None:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            encode_video(np.concatenate([draw() for draw in videos[name]]), path, fps=fps)

        for name, text in (texts or {}).items():
            (directory / name).write_text(text, encoding="utf-8")
        pool = ThreadPoolExecutor(available_cores())  # numpy and the encoder release the GIL
        try:
            for done, _ in enumerate(pool.map(write_video, videos), start=1):
                if on_progress is not None:
                    on_progress(done, len(videos))
        finally:
            pool.shutdown(cancel_futures=True)
