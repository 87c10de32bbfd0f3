"""Re-encode videos at a smaller size, so that training decodes them much faster."""

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

from xvit.data.annotations.finder import check_folder, find_videos
from xvit.data.decode.demux import VideoInfo, open_video, probe_file, video_errors
from xvit.data.decode.video import frame_to_rgb
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.files import atomic_write_text, check_new_directory
from xvit.utils.parallel import check_stop, parallel_map

_SETTINGS = ".resize.json"
# "g" is the distance between keyframes. It is short because training seeks: it decodes from the last keyframe before
# each sampled frame.
_ENCODER_OPTIONS = {"crf": "18", "preset": "fast", "g": "24"}


@dataclass(frozen=True, kw_only=True)
class ResizeResult:
    """The result of `resize_videos`.

    Args:
        written: number of videos written.
        skipped: number of videos that existed already.
        failures: errors of the videos that could not be read.
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
) -> ResizeResult:
    """Write each video below root as H.264 in MP4 without sound to the same relative path below output.

    A video appears only once it is complete. Existing ones are skipped, so a second call continues an interrupted one.
    Smaller videos keep their size. Folders of frames are left out.

    Args:
        root: folder of the videos, which is only read.
        output: folder of the results.
        short_side: length of the shorter side, in pixels.
        fps: frames per second: each output frame is the latest source frame at its time; None keeps all frames and
            their times.
        num_workers: worker processes; 0 encodes in this process.
        on_progress: called with (videos done, total videos) after each video.

    Raises:
        XViTError: a number out of its range; no videos; one folder contains the other; two videos with the same target;
            an output that was written with other settings.
    """
    check_range("short_side", short_side, 16)
    if fps is not None:
        check_range("fps", fps, 0.1)
    check_folder(root)
    root, output = Path(root), Path(output)
    targets = _find_targets(root, output)
    _check_settings(output, {"short_side": short_side, "fps": fps})
    jobs = [_Job(str(source), str(target)) for target, source in targets.items() if not target.exists()]
    skipped = len(targets) - len(jobs)

    def report_progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(skipped + done, skipped + total)

    run_job = partial(_run_job, short_side=short_side, fps=fps)
    results = parallel_map(run_job, jobs, num_workers=num_workers, on_progress=report_progress)
    failures = [error for error in results if error is not None]
    return ResizeResult(written=len(jobs) - len(failures), skipped=skipped, failures=failures)


def resize_video(source: str | Path, target: str | Path, *, short_side: int, fps: float | None = None) -> None:
    """Write one video. The target appears only once it is complete.

    Raises:
        VideoError: not a video, damaged or cut short.
    """
    info = probe_file(source)
    if info.damage:
        raise VideoError(source, info.damage)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = target.with_name(f".{target.name}.part")
    try:
        with (
            open_video(source) as (container, stream),
            video_errors(source, "cannot be re-encoded"),
            av.open(f"file:{tmp_path}", "w", format="mp4", options={"movflags": "faststart"}) as output,
        ):
            frames = (frame for packet in container.demux(stream) for frame in packet.decode())
            encoder = _Encoder(output, fps, info.fps)
            num_decoded, size = 0, None
            for time, frame in _with_times(frames, info):
                check_stop()
                if size not in (None, (frame.width, frame.height)):
                    raise VideoError(source, "the frame size changes within the video")
                num_decoded, size = num_decoded + 1, (frame.width, frame.height)
                encoder.add(time, _resize_frame(frame, short_side))
            if num_decoded == 0:
                raise VideoError(source, "none of its frames can be decoded")
            if num_decoded < 0.9 * info.num_frames:  # as in `read_clip`
                raise VideoError(source, f"only {num_decoded} of its {info.num_frames} frames can be decoded")
            encoder.finish()
        tmp_path.replace(target)
    finally:
        tmp_path.unlink(missing_ok=True)


class _Encoder:
    """Encodes frames, at the frame rate `fps` or, if it is None, at the times of the frames."""

    def __init__(self, output: OutputContainer, fps: float | None, source_fps: float) -> None:
        self.output, self.fps, self.source_fps = output, fps, source_fps
        self.time_base = Fraction(1, 90_000) if fps is None else 1 / Fraction(fps).limit_denominator(1001)
        self._stream: VideoStream | None = None
        self._next_pts = 0
        self._last: tuple[float, av.VideoFrame] | None = None  # with `fps`: repeated until the time of the next frame

    def add(self, time: float, frame: av.VideoFrame) -> None:
        """Add a frame at a time in seconds, not before the previous one."""
        if self._stream is None:
            self._stream = self._add_stream(frame)
        if self.fps is None:
            self._next_pts = max(self._next_pts, round(time / self.time_base))
            self._encode(frame)
        else:
            self._repeat_last(time)
            self._last = time, frame

    def finish(self) -> None:
        """Write the remaining frames. At least one frame must have been added."""
        assert self._stream is not None
        if self._last is not None:
            self._repeat_last(self._last[0] + 1 / self.source_fps)
        self.output.mux(self._stream.encode(None))

    def _repeat_last(self, end: float) -> None:
        while self._last is not None and self._next_pts * self.time_base < end - 1e-6:
            self._encode(self._last[1])

    def _encode(self, frame: av.VideoFrame) -> None:
        assert self._stream is not None
        frame.pts, frame.time_base = self._next_pts, self.time_base
        self.output.mux(self._stream.encode(frame))
        self._next_pts += 1

    def _add_stream(self, frame: av.VideoFrame) -> VideoStream:
        keeps_times = self.fps is None
        rate = Fraction(self.source_fps).limit_denominator(1001) if keeps_times else 1 / self.time_base
        stream = self.output.add_stream("libx264", rate=rate, options=_ENCODER_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        context = stream.codec_context
        context.time_base = self.time_base
        context.thread_count = 1  # the worker processes share the cores
        context.colorspace, context.color_range = frame.colorspace, frame.color_range
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        return stream


def _run_job(job: _Job, *, short_side: int, fps: float | None) -> VideoError | None:
    try:
        resize_video(job.source, job.target, short_side=short_side, fps=fps)
    except VideoError as error:
        return VideoError(error.path, error.reason)  # a new error, whose traceback does not hold video frames
    return None


def _find_targets(root: Path, output: Path) -> dict[Path, Path]:
    """The source of each target."""
    one, other = root.resolve(), output.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise XViTError(f"{output}: one of this folder and {root} contains the other: choose a folder elsewhere")
    sources = [Path(path) for path in find_videos([root]) if os.path.isfile(path)]
    if not sources:
        raise XViTError(f"{root}: no video files in it")
    targets: dict[Path, Path] = {}
    for source in sources:
        target = output / source.relative_to(root).with_suffix(".mp4")
        if target in targets:
            raise XViTError(f"{targets[target]} and {source} would both become {target}: rename one of them")
        targets[target] = source
    return targets


def _check_settings(output: Path, settings: dict[str, float | None]) -> None:
    """Refuse an output that was written with other settings. Create a new output with these settings."""
    path = output / _SETTINGS
    if path.exists():
        try:
            previous = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            previous = None
        if previous != settings:
            raise XViTError(f"{output}: was written with {previous}, not {settings}: choose another --output")
        return
    check_new_directory(output).mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(settings) + "\n")


def _with_times(frames: Iterator[av.VideoFrame], info: VideoInfo) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames with their times in seconds from the first one, the same times as in `read_clip`."""
    time = 0.0
    for index, frame in enumerate(frames):
        time = float(info.times[index]) if index < info.num_frames else time + 1 / info.fps
        yield time, frame


def _resize_frame(frame: av.VideoFrame, short_side: int) -> av.VideoFrame:
    """The frame as it is displayed, shrunk to even side lengths, which the encoder requires."""
    if round(frame.rotation / 90) % 4:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_to_rgb(frame, None)), format="rgb24")
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    resized = frame.reformat(width, height, format="yuv420p", interpolation="AREA", threads=1)
    resized.pict_type = PictureType.NONE  # otherwise the encoder repeats the frame types of the source
    return resized
