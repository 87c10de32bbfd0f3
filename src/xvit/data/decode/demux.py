"""Open a video file safely and scan its packets, without decoding them or trusting its metadata."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Stream

from xvit.data.decode.clock import Timing, display_order, split_sections
from xvit.data.decode.limits import DECODER_OPTIONS, MAX_PIXELS, prepare_decoder
from xvit.data.decode.signatures import why_no_video
from xvit.data.decode.streams import best_stream, video_streams
from xvit.data.shards import file_size, find_member
from xvit.data.timeout import check_deadline
from xvit.utils.errors import VideoError, XViTError

# Only formats that are a video in themselves. FFmpeg also opens playlists and scripts that refer to other files and
# addresses, and renders plain text as a terminal screen. A hostile file named .mp4 must reach none of these.
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,mxf,nut,ivf,yuv4mpegpipe",
    "protocol_whitelist": "file",
} | DECODER_OPTIONS
# A recording that starts between two keyframes has its first header at the second one: up to 60 s and 100 MB later.
_LONG_PROBE = {"analyzeduration": "60000000", "probesize": "100000000"}
# Titles and comments may be in any encoding. PyAV 19 has removed this argument and never fails on them.
_METADATA: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_UNRELIABLE_KEYFRAMES = {"avi", "mov,mp4,m4a,3gp,3g2,mj2"}  # by index tables that are often wrong, and edit lists
_ONE_FRAME_PER_PACKET = {"h264", "hevc", "vp9", "av1"}
READ_ERRORS = (av.error.FFmpegError, ValueError, ArithmeticError, LookupError, MemoryError)  # seen on damaged files
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # of the disk that is written to: no fault of a video


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Size, length and frame times of a video, from a scan of its packets.

    Args:
        path: the file, or the folder of frames.
        num_frames: number of frames in the file: counted, not taken from its header.
        fps: mean frame rate, in frames per second.
        duration: seconds.
        width, height: of the stored frames in pixels, before rotation.
        codec: FFmpeg's name, such as h264.
        container: FFmpeg's name, such as matroska,webm; "folder" for a folder of frames.
        damage: how the file is cut short; empty if it seems complete.
        warnings: what had to be assumed about the video, in words.
        num_leading: frames at the start that refer to frames before the recording; they are left out everywhere.
        times: (num_frames,) seconds from the first frame to each frame, in the order in which they are shown.
    """

    path: str
    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    codec: str
    container: str
    damage: str = ""
    warnings: tuple[str, ...] = ()
    num_leading: int = 0
    times: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class PacketScan:
    """The result of `scan_video`. The timestamps are those that are known; they ascend if the video is seekable."""

    info: VideoInfo
    pts: list[int]
    keyframe_pts: list[int]
    corrupt_pts: frozenset[int]  # of packets that the container marks: decoders do not flag all of their frames
    seekable: bool  # each frame has a timestamp of its own, and the first frame can be reached from a keyframe


def probe_file(path: str | Path, *, max_frames: int | None = None) -> VideoInfo:
    """Count the frames of a video file and read its size and times, without decoding it, as `probe` does.

    Raises `VideoError` as soon as there are more than `max_frames`: a small file can hold many millions.
    """
    return scan_file(path, max_frames=max_frames).info


def scan_file(path: str | Path, *, max_frames: int | None = None) -> PacketScan:
    """Read all packets of a video file, without decoding them."""
    with video_errors(path, "cannot be read"), open_video(path) as (container, stream):
        return scan_video(path, container, stream, max_frames=max_frames)


def error_reason(error: BaseException) -> str:
    """The reason of an FFmpeg, PyAV or operating system error, in one line of lower case."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).lower().split())


@contextmanager
def video_errors(path: str | Path, message: str) -> Iterator[None]:
    """Turn any error of FFmpeg, PyAV and others while a video is read into a `VideoError`.

    A damaged video must not end a command that reads many. Errors of PyAV cannot be pickled by a worker, either.
    """
    try:
        yield
    except XViTError:
        raise
    except Exception as error:
        if (number := getattr(error, "errno", None)) in _DISK_ERRORS:
            raise OSError(number, os.strerror(number)) from None
        raise VideoError(path, f"{message} ({error_reason(error)})") from None


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a video file and yield its container and its video stream; raise `VideoError` if it has none.

    The file may be in a shard: SHARD.tar/KEY.mp4.
    """
    if find_member(path) is None:
        _check_regular_file(path)
    if file_size(path) == 0:
        raise VideoError(path, "the file is empty (0 bytes)")
    if reason := why_no_video(path):
        raise VideoError(path, reason)
    with _open_container(path) as container:
        streams = video_streams(path, container)
        num_frames = {stream.index: stream.frames for stream in streams}
        if len(streams) > 1 and not all(num_frames.values()):  # mkv, ts and others do not say
            num_frames = _count_to_two(path, num_frames)
        stream = best_stream(streams, num_frames)
        prepare_decoder(path, stream)
        if not stream.codec_context.width or not stream.codec_context.height:
            raise VideoError(path, f"the file has no frames, or frames of more than {MAX_PIXELS:,} pixels")
        yield container, stream


def _check_regular_file(path: str | Path) -> None:
    if not os.path.exists(path):
        raise VideoError(path, "no such file")
    if os.path.isdir(path):
        raise VideoError(path, "a folder, not a video file")
    if not os.path.isfile(path):
        raise VideoError(path, "not a regular file")


@contextmanager
def _open_container(path: str | Path) -> Iterator[InputContainer]:
    with _open_source(path) as source:
        with video_errors(path, "not a readable video file, or cut short"):
            container: InputContainer = av.open(source, "r", options=_OPTIONS, **_METADATA)
            contexts = [stream.codec_context for stream in container.streams.video]
            # None: no decoder, however long the probe
            if not all(context is None or context.width for context in contexts):
                container.close()
                if not isinstance(source, str):
                    source.seek(0)
                container = av.open(source, "r", options=_OPTIONS | _LONG_PROBE, **_METADATA)
        with container:
            yield container


@contextmanager
def _open_source(path: str | Path) -> Iterator[str | BinaryIO]:
    """What FFmpeg opens: the name of a file, or the bytes of a video in a shard."""
    member = find_member(path)
    if member is None:
        yield f"file:{os.fspath(path)}"  # without "file:", FFmpeg takes a colon in the name for the end of a protocol
        return
    with video_errors(path, "cannot be read"):
        file = member.load()
    with file:
        yield file


def read_packets(container: InputContainer, *streams: Stream) -> "Iterator[av.Packet[Any]]":
    """Yield the packets of some streams, or of all; the one place that does, so that each read can be timed out."""
    for packet in container.demux(*streams):
        check_deadline()
        yield packet


def _count_to_two(path: str | Path, indices: Iterable[int]) -> dict[int, int]:
    """Count the frames of streams, but stop once each has two; a stream without any counts as a still picture."""
    counts = dict.fromkeys(indices, 0)
    # In a container of its own, because not every one can be rewound.
    with _open_container(path) as container, suppress(*READ_ERRORS):
        for packet in read_packets(container, *(container.streams[index] for index in counts)):
            counts[packet.stream_index] += packet.size > 0
            if min(counts.values()) > 1:
                break
    return {index: max(count, 1) for index, count in counts.items()}


def scan_video(
    path: str | Path, container: InputContainer, stream: av.VideoStream, *, max_frames: int | None = None
) -> PacketScan:
    """Read all packets of an open video, without decoding them; raise `VideoError` if it has no frames."""
    frame_pts: list[int | None] = []  # AVI: decoding times
    frame_dts: list[int | None] = []
    keyframe_pts: list[int | None] = []
    corrupt: dict[int, int | None] = {}  # timestamps of damaged packets, by index
    num_leading, end_time = 0, 0.0  # seconds, of the last packet
    timing = Timing.of(container, stream)
    with video_errors(path, "not a readable video file"):
        for packet in _at_most(path, read_packets(container, stream), max_frames):
            if packet.size == 0:
                continue
            if packet.is_keyframe and not keyframe_pts and container.format.name not in _UNRELIABLE_KEYFRAMES:
                num_leading = len(frame_pts)
                frame_pts.clear()
                frame_dts.clear()
                corrupt.clear()
            elif num_leading and len(frame_pts) == 1 and (packet.pts or 0) < (keyframe_pts[0] or 0):
                num_leading += 1  # shown before the keyframe: it refers to frames before the recording, too
                continue
            if packet.is_corrupt:
                corrupt[len(frame_pts)] = packet.pts
            if packet.is_keyframe:
                keyframe_pts.append(packet.pts)
            if not packet.is_discard:  # an edit list hides frames that other frames refer to
                frame_pts.append(packet.dts if timing.by_decoding else packet.pts)
                frame_dts.append(packet.dts)
            end_time = max(end_time, _end_time(packet))
    context, num_frames = stream.codec_context, len(frame_pts)
    if not frame_pts:
        raise VideoError(path, "the file has no frames")
    sections = split_sections(frame_dts, timing.max_step / timing.time_base)
    in_order = [value for section in sections for value in display_order(frame_pts[section])]
    # Where recordings are joined, FFmpeg marks one of the last two packets of the first one, although it may be whole.
    ends = {section.stop - from_end for section in sections[:-1] for from_end in (1, 2)}
    corrupt_pts = frozenset(value for index, value in corrupt.items() if value is not None and index not in ends)
    times = _frame_times(in_order, timing)
    fps = (num_frames - 1) / float(times[-1]) if num_frames > 1 else timing.rate
    pts = [value for value in in_order if value is not None]
    keys = sorted(value for value in keyframe_pts if value is not None)
    container_name, codec = container.format.name, context.codec.canonical_name
    indexed = container_name in _INDEXED_CONTAINERS and codec in _ONE_FRAME_PER_PACKET
    seekable = indexed and len(sections) == 1 and len(set(pts)) == num_frames and bool(keys) and keys[0] <= pts[0]
    info = VideoInfo(
        path=str(path),
        num_frames=num_frames,
        fps=fps,
        duration=num_frames / fps,
        width=context.width,
        height=context.height,
        codec=codec,
        container=container_name,
        damage=_describe_damage(container, stream, num_frames, len(corrupt), end_time),
        warnings=tuple(filter(None, (timing.warning, _describe_start(num_leading)))),
        num_leading=num_leading,
        times=times,
    )
    return PacketScan(info=info, pts=pts, keyframe_pts=keys, corrupt_pts=corrupt_pts, seekable=seekable)


def _at_most(
    path: str | Path, packets: "Iterator[av.Packet[Any]]", max_frames: int | None
) -> "Iterator[av.Packet[Any]]":
    """The packets of a video; raises `VideoError` if more than `max_frames` of them are frames."""
    count = 0
    for packet in packets:
        count += packet.size > 0
        if max_frames is not None and count > max_frames:
            raise VideoError(path, f"more than {max_frames:,} frames: send a part of it")
        yield packet


def _frame_times(timestamps: list[int | None], timing: Timing) -> np.ndarray:
    """Seconds from the first frame to each frame, whatever its timestamp."""
    clock = timing.clock()
    seconds = (None if value is None else value * timing.time_base for value in timestamps)
    return np.array([clock.tick(value) for value in seconds])


def from_first_keyframe(packets: "Iterator[av.Packet[Any]]", info: VideoInfo) -> "Iterator[av.Packet[Any]]":
    """Leave out the packets before the first keyframe of a recording that starts between two."""
    return dropwhile(lambda packet: not packet.is_keyframe, packets) if info.num_leading else packets


def _describe_start(num_leading: int) -> str:
    return f"starts between keyframes: {num_leading} frames before the first one are left out" if num_leading else ""


def _end_time(packet: "av.Packet[av.VideoStream] | av.Packet[Stream]") -> float:
    start = packet.dts if packet.pts is None else packet.pts
    return float(((start or 0) + (packet.duration or 0)) * (packet.time_base or 0))


def _describe_damage(
    container: InputContainer, stream: av.VideoStream, num_frames: int, num_corrupt: int, end_time: float
) -> str:
    """Describe how the file is shorter than its header says; "" if it is not. MPEG streams and GIF do not say it."""
    num_intact = num_frames - num_corrupt
    if container.format.name == "avi":
        # Repeated frames are empty packets, which FFmpeg leaves out: the times count them, as the header does.
        num_intact = max(num_frames, round(end_time / float(stream.time_base or 1))) - num_corrupt
        if num_intact < 0.98 * stream.frames - 2:  # the header often counts up to two frames too many
            return f"cut short: {num_intact} of its {stream.frames} frames are present"
    if "mp4" in container.format.name:  # its index holds the position of each frame
        size = container.size
        num_lost = sum(entry.pos + entry.size > size for entry in stream.index_entries)
        if num_lost:
            return f"cut short: {num_intact} of its {num_intact + num_lost} frames are present"
    if container.format.name == "matroska,webm" and container.duration:
        duration = container.duration / av.time_base
        min_end = duration - max(0.5, 0.02 * duration)
        if end_time < min_end:  # the audio may be longer than the video
            container.seek(0)
            end_time = max([end_time, *(_end_time(packet) for packet in read_packets(container))])
        if end_time < min_end:
            return f"cut short: {end_time:.1f} of its {duration:.1f} s are present"
    if container.format.name == "flv":  # FFmpeg ends where another file's header follows
        end = _last_position(container)
        if end < 0.9 * container.size:
            return f"only the first {end} of its {container.size} bytes can be read"
    return ""


def _last_position(container: InputContainer) -> int:
    """Where the last packet of all streams ends, in bytes."""
    end = 0
    with suppress(*READ_ERRORS):
        container.seek(0)
        for packet in read_packets(container):
            end = max(end, (packet.pos or 0) + packet.size)
    return end
