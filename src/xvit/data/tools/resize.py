"""Re-encode videos at a smaller size, so that training decodes them much faster."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from xvit.config import DataConfig
from xvit.data.annotations.finder import merge_left_out, report_left_out, scan_folder
from xvit.data.decode.clock import Timing, choose_frames
from xvit.data.decode.demux import (
    READ_ERRORS,
    PacketScan,
    VideoInfo,
    from_first_keyframe,
    open_video,
    read_packets,
    scan_file,
    video_errors,
)
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.data.decode.video import check_frame_size, frame_to_rgb
from xvit.data.timeout import restart_deadline, time_limit
from xvit.data.tools.resize_record import open_output
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.files import check_folder, publish, write_errors
from xvit.utils.locks import lock_directory
from xvit.utils.parallel import check_stop, parallel_map
from xvit.utils.workers import killed_error

_logger = logging.getLogger("xvit")

TimedFrame = tuple[float, av.VideoFrame]  # time in seconds from the first frame

# "g" is the distance between keyframes. It is short because training seeks: it decodes from the last keyframe before
# each sampled frame.
_ENCODER_OPTIONS = {"crf": "18", "preset": "fast", "g": "24"}


@dataclass(frozen=True, kw_only=True)
class ResizeResult:
    """The result of `resize_videos`.

    Args:
        written: number of videos that were written.
        remade: number of copies that were deleted, to be made again, because their source changed.
        skipped: number of videos that existed already.
        failures: the errors of the videos that could not be read.
        without_source: videos in the output whose source is gone, as paths relative to it. They are kept.
        source_bytes: size of the videos that have a copy.
        copy_bytes: size of their copies, which may be larger if the videos are small already.
    """

    written: int
    remade: int
    skipped: int
    failures: list[VideoError]
    without_source: list[str]
    source_bytes: int
    copy_bytes: int


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
    A copy whose source has another size or time of modification by now is made again. A copy whose source is gone is
    kept and logged.
    Smaller videos keep their size. Folders of frames are left out. What is left out is logged.

    Args:
        root: folder of the videos, which is only read.
        output: folder of the results.
        short_side: length of the shorter side, in pixels.
        fps: frames per second: each output frame is the source frame on display at its time, as models read videos at
            a frame rate; None keeps all frames and their times.
        num_workers: worker processes; 0 encodes in this process.
        on_progress: called with (videos done, total videos) after each video.

    Raises:
        XViTError: a number out of its range; no videos; one folder contains the other; two videos with the same target;
            an output that was written with other settings, or from a folder with other videos of the same names, or
            that another process writes.
        WriteError: the disk is full, and the like; the copies that are complete stay.
    """
    check_range("short_side", short_side, 16)
    if fps is not None:
        check_range("fps", fps, 0.1)
    check_folder(root)
    root, output = Path(root), Path(output)
    with lock_directory(output, "xvit data resize"):
        return _resize_videos(root, output, short_side, fps, num_workers, on_progress)


def _resize_videos(
    root: Path,
    output: Path,
    short_side: int,
    fps: float | None,
    num_workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> ResizeResult:
    targets = _find_targets(root, output)
    remade, without_source = open_output(root, output, targets, {"short_side": short_side, "fps": fps})
    sources = [source for target, source in targets.items() if not target.exists()]
    skipped = len(targets) - len(sources)

    def report_progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(skipped + done, skipped + total)

    resize = partial(_resize_or_report, root=root, output=output, short_side=short_side, fps=fps)
    on_killed = partial(_report_killed, root=root, output=output)
    results = parallel_map(resize, sources, num_workers=num_workers, on_progress=report_progress, on_killed=on_killed)
    failures = [error for error in results if error is not None]
    written = len(sources) - len(failures)
    copied = {target: source for target, source in targets.items() if target.exists() and source.exists()}
    return ResizeResult(
        written=written,
        remade=remade,
        skipped=skipped,
        failures=failures,
        without_source=without_source,
        source_bytes=sum(source.stat().st_size for source in copied.values()),
        copy_bytes=sum(target.stat().st_size for target in copied),
    )


def resize_video(source: str | Path, target: str | Path, *, short_side: int, fps: float | None = None) -> None:
    """Write one video. The target appears only once it is complete.

    Raises:
        VideoError: not a video, damaged or cut short.
        WriteError: the target cannot be written.
    """
    scan = scan_file(source)
    info = scan.info
    if info.damage:
        raise VideoError(source, info.damage)
    for warning in info.warnings:
        _logger.warning("%s: %s", source, warning)
    target = Path(target)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = _tmp_path(target)
    try:
        with (
            video_errors(source, "cannot be re-encoded"),
            open_video(source) as (container, stream),
            _create_mp4(tmp_path, target) as output,
        ):
            frames = (
                frame
                for packet in from_first_keyframe(read_packets(container, stream), info)
                for frame in packet.decode()
            )
            shown = _read_frames(frames, scan, Timing.of(container, stream))
            chosen = choose_frames(shown, stride=1, frame_rate=fps, interval=1 / info.fps, end=info.duration)
            resized = ((time, _resize_frame(*frame, short_side)) for frame, time in chosen if time is not None)
            _encode(resized, output, info, fps, target)
        with write_errors(target):
            publish(tmp_path, target)
    finally:
        tmp_path.unlink(missing_ok=True)


@contextmanager
def _create_mp4(path: Path, target: Path) -> Iterator[OutputContainer]:
    """A container to write to; raises `WriteError` about the target, not about the video that is read meanwhile."""
    with write_errors(target):
        output = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"})
    try:
        yield output
    except BaseException:
        with suppress(*READ_ERRORS):
            output.close()
        raise
    with write_errors(target):
        output.close()


def _resize_or_report(
    source: Path, *, root: Path, output: Path, short_side: int, fps: float | None
) -> VideoError | None:
    try:
        with time_limit(source, DataConfig.decode_timeout, f"no frame within {DataConfig.decode_timeout:g} s"):
            resize_video(source, _target(source, root, output), short_side=short_side, fps=fps)
    except VideoError as error:
        return VideoError(error.path, error.reason)  # a new error, whose traceback does not hold video frames
    return None


def _report_killed(source: Path, how: str, *, root: Path, output: Path) -> VideoError:
    _tmp_path(_target(source, root, output)).unlink(missing_ok=True)
    return killed_error(source, how)


def _target(source: Path, root: Path, output: Path) -> Path:
    return output / source.relative_to(root).with_suffix(".mp4")


def _tmp_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _read_frames(
    frames: Iterable[av.VideoFrame], scan: PacketScan, timing: Timing
) -> Iterator[tuple[float, tuple[av.VideoFrame, Orientation]]]:
    """Yield the time of each frame, the same as in `read_clip`, the frame and how it is shown."""
    info, clock, num_decoded, num_damaged, size, orientation = scan.info, timing.clock(), 0, 0, None, Orientation()
    for frame in frames:
        check_stop()
        restart_deadline()
        orientation = read_orientation(frame, orientation)
        size = check_frame_size(info.path, orientation.displayed_size(frame), size)
        num_damaged += frame.is_corrupt or frame.pts in scan.corrupt_pts
        if num_decoded == 0 and not orientation.exact:
            _logger.warning("%s: %s", info.path, ODD_MATRIX)
        num_decoded += 1
        yield clock.tick(timing.seconds(frame)), (frame, orientation)
    if num_damaged:
        _logger.warning("%s: damaged frames: %d", info.path, num_damaged)
    if num_decoded == 0:
        raise VideoError(info.path, "none of its frames can be decoded")
    if num_decoded < 0.9 * info.num_frames:  # as in `read_clip`
        raise VideoError(info.path, f"only {num_decoded} of its {info.num_frames} frames can be decoded")


def _resize_frame(frame: av.VideoFrame, orientation: Orientation, short_side: int) -> av.VideoFrame:
    """The frame as it is displayed, shrunk to even side lengths, which the encoder requires."""
    if orientation[:4] != Orientation()[:4]:
        rgb = np.ascontiguousarray(frame_to_rgb(frame, orientation, None))
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    resized = frame.reformat(width, height, format="yuv420p", interpolation="AREA", threads=1)
    resized.pict_type = PictureType.NONE  # otherwise the encoder repeats the frame types of the source
    return resized


def _encode(
    frames: Iterable[TimedFrame], output: OutputContainer, info: VideoInfo, fps: float | None, target: Path
) -> None:
    """Encode at least one frame, at the frame rate `fps` or, if it is None, at the times of the frames."""
    rate = Fraction(info.fps if fps is None else fps).limit_denominator(1001)
    time_base = Fraction(1, 90_000) if fps is None else 1 / rate
    stream: VideoStream | None = None
    pts = 0
    for time, frame in frames:
        if stream is None:
            stream = _add_stream(output, frame, rate, time_base)
        pts = max(pts, round(time / time_base))
        frame.pts, frame.time_base = pts, time_base
        packets = stream.encode(frame)
        with write_errors(target):
            output.mux(packets)
        pts += 1
    assert stream is not None
    packets = stream.encode(None)
    with write_errors(target):
        output.mux(packets)


def _add_stream(output: OutputContainer, frame: av.VideoFrame, rate: Fraction, time_base: Fraction) -> VideoStream:
    """A stream for frames of the size and the colour space of `frame`."""
    stream = output.add_stream("libx264", rate=rate, options=_ENCODER_OPTIONS)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    context = stream.codec_context
    context.time_base = time_base
    context.thread_count = 1  # the worker processes share the cores
    context.colorspace, context.color_range = frame.colorspace, frame.color_range
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    return stream


def _find_targets(root: Path, output: Path) -> dict[Path, Path]:
    """The source of each target."""
    one, other = root.resolve(), output.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise XViTError(f"{output}: one of this folder and {root} contains the other: choose a folder elsewhere")
    contents = scan_folder(root)
    frame_folders = [path for path in contents.videos if os.path.isdir(path)]
    report_left_out(merge_left_out(contents.left_out, {"folder of frames": frame_folders} if frame_folders else {}))
    sources = [Path(path) for path in contents.videos if os.path.isfile(path)]
    if not sources:
        raise XViTError(f"{root}: no video files in it")
    targets: dict[Path, Path] = {}
    for source in sources:
        target = _target(source, root, output)
        if target in targets:
            raise XViTError(f"{targets[target]} and {source} would both become {target}: rename one of them")
        targets[target] = source
    return targets
