"""Videos re-encoded smaller, so that training decodes them in a fraction of the time."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from xvit.data.annotations.finder import check_folder
from xvit.data.annotations.samples import find_videos
from xvit.data.decode.demux import VideoInfo, open_video, probe_file, video_errors
from xvit.data.decode.video import frame_to_rgb
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.parallel import check_stop, run_all

_SETTINGS = ".resize.json"
# Training reads a few frames here and there: from the keyframe before each, which should not be far.
_ENCODER = {"crf": "18", "preset": "fast", "g": "24"}


@dataclass(frozen=True, kw_only=True)
class Resized:
    """What `resize_videos` did.

    Args:
        written: videos written now.
        skipped: videos that were there already.
        failures: those that could not be read.
    """

    written: int
    skipped: int
    failures: list[VideoError]


@dataclass(frozen=True)
class _Job:
    source: str
    target: str

    def __str__(self) -> str:
        return self.source


def resize_videos(
    root: str | Path,
    output: str | Path,
    *,
    short_side: int = 256,
    fps: float | None = None,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Resized:
    """Write each video below root, as H.264 in mp4 without sound, to the same place below output.

    Each is whole or not there; those that are there are skipped, so that a second call goes on where one was stopped.
    Smaller videos keep their size. Folders of frames are left out.

    Args:
        root: folder of the videos, which are only read.
        output: folder of the results.
        short_side: pixels of the shorter side.
        fps: frames a second, the nearest earlier frame being taken; None for each frame at its time.
        workers: processes; 0 for this one.
        on_progress: called with (videos done, videos in all) after each.

    Raises:
        XViTError: a number out of its range, no videos, one folder within the other, two videos for one name, an
            output that was written with other settings.
    """
    check_range("short_side", short_side, 16)
    if fps is not None:
        check_range("fps", fps, 0.1)
    check_folder(root)
    root, output = Path(root), Path(output)
    one, other = root.resolve(), output.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise XViTError(f"{output}: lies in {root}, or that in it: choose a folder elsewhere")
    sources = [Path(path) for path in find_videos([root]) if os.path.isfile(path)]
    if not sources:
        raise XViTError(f"{root}: no video files in it")
    targets: dict[Path, Path] = {}
    for source in sources:
        target = output / source.relative_to(root).with_suffix(".mp4")
        if target in targets:
            raise XViTError(f"{targets[target]} and {source} would both become {target}: rename one of them")
        targets[target] = source
    _check_settings(output, {"short_side": short_side, "fps": fps})
    jobs = [_Job(str(source), str(target)) for target, source in targets.items() if not target.exists()]
    skipped = len(targets) - len(jobs)

    def advance(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(skipped + done, skipped + total)

    results = run_all(
        partial(_resize, short_side=short_side, fps=fps), jobs, num_workers=num_workers, on_progress=advance
    )
    failures = [error for error in results if error is not None]
    return Resized(written=len(jobs) - len(failures), skipped=skipped, failures=failures)


def resize_video(source: str | Path, target: str | Path, *, short_side: int, fps: float | None = None) -> None:
    """Write one video, beside its place and then moved there, so that it is whole or not there.

    Raises:
        VideoError: a file that is no video, is damaged or cut short.
    """
    info = probe_file(source)
    if info.damage:
        raise VideoError(source, info.damage)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with (
            open_video(source) as (container, stream),
            video_errors(source, "cannot be re-encoded"),
            av.open(f"file:{part}", "w", format="mp4", options={"movflags": "faststart"}) as made,
        ):
            frames = (frame for packet in container.demux(stream) for frame in packet.decode())
            decoded = _encode(_timed(frames, info), made, source, short_side, fps, info.fps)
            if decoded < 0.9 * info.num_frames:  # as `read_clip` has it
                raise VideoError(source, f"only {decoded} of its {info.num_frames} frames can be decoded")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _resize(job: _Job, *, short_side: int, fps: float | None) -> VideoError | None:
    try:
        resize_video(job.source, job.target, short_side=short_side, fps=fps)
    except VideoError as error:
        return VideoError(error.path, error.reason)  # without the traceback, and the frames that it holds
    return None


def _encode(
    frames: Iterator[tuple[float, av.VideoFrame]],
    made: OutputContainer,
    source: str | Path,
    short_side: int,
    fps: float | None,
    rate: float,
) -> int:
    """Encode all frames, given with their seconds; the number of those that came in."""
    step = Fraction(1, 90_000) if fps is None else 1 / Fraction(fps).limit_denominator(1001)
    stream: VideoStream | None = None
    decoded, written, size = 0, 0, None
    held: av.VideoFrame | None = None  # waits for the next one, to know how long it is shown

    def put(frame: av.VideoFrame, place: int) -> None:
        frame.pts, frame.time_base = place, step
        assert stream is not None
        made.mux(stream.encode(frame))

    time = 0.0
    for time, frame in frames:
        check_stop()
        if size not in (None, (frame.width, frame.height)):
            raise VideoError(source, "the picture size changes within the video")
        size, decoded = (frame.width, frame.height), decoded + 1
        small = _small(frame, short_side)
        if stream is None:
            stream = _stream(made, small, step, rate)
        if fps is None:
            written = max(written, round(time / step))
            put(small, written)
            written += 1
        else:
            while held is not None and written * step < time - 1e-6:
                put(held, written)
                written += 1
            held = small
    if stream is None:
        raise VideoError(source, "none of its frames can be decoded")
    while held is not None and written * step < time + 1 / rate - 1e-6:
        put(held, written)
        written += 1
    made.mux(stream.encode(None))
    return decoded


def _timed(frames: Iterator[av.VideoFrame], info: VideoInfo) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their seconds from the first one, as `read_clip` has them."""
    time = 0.0
    for place, frame in enumerate(frames):
        time = float(info.times[place]) if place < info.num_frames else time + 1 / info.fps
        yield time, frame


def _small(frame: av.VideoFrame, short_side: int) -> av.VideoFrame:
    """The picture as it is to be shown, shrunk, with sides that the encoder takes."""
    if round(frame.rotation / 90) % 4:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_to_rgb(frame, None)), format="rgb24")
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    small = frame.reformat(width, height, format="yuv420p", interpolation="AREA", threads=1)
    small.pict_type = PictureType.NONE  # else the encoder repeats the types of the source's frames
    return small


def _stream(made: OutputContainer, first: av.VideoFrame, step: Fraction, rate: float) -> VideoStream:
    fraction = 1 / step if step > Fraction(1, 1000) else Fraction(rate).limit_denominator(1001)
    stream = made.add_stream("libx264", rate=fraction, options=_ENCODER)
    stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
    context = stream.codec_context
    context.time_base = step
    context.thread_count = 1  # the processes share the cores
    context.colorspace, context.color_range = first.colorspace, first.color_range
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    return stream


def _check_settings(output: Path, settings: dict[str, float | None]) -> None:
    """Keep what is written with other settings apart."""
    path = output / _SETTINGS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != settings:
            raise XViTError(f"{output}: was written with {before}, not {settings}: choose another --output")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise XViTError(f"{output}: exists and is not an empty folder; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    part = output / f"{_SETTINGS}.part"
    part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    part.replace(path)
