"""What a video file says of itself: opened safely, scanned packet by packet; nothing decoded or taken on trust."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from xvit.utils.errors import VideoError, XViTError

# Only what is a video file in itself. FFmpeg also opens play lists and scripts that name other files and addresses, and
# takes plain text for the picture of a terminal: a hostile file named .mp4 must reach none of these.
_OPTIONS = {
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,m4v,mxf,nut,ivf,yuv4mpegpipe",
    "protocol_whitelist": "file",
}
# Titles and comments may be in any encoding; PyAV 19 no longer takes the argument, and never fails on them.
_METADATA: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_INDEXED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1"}
READ_ERRORS = (av.error.FFmpegError, ValueError, ArithmeticError, LookupError, MemoryError)  # seen on damaged files
MAX_ASPECT = 32  # resizing the short side of a picture of 2 x 60000 pixels would take gigabytes


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a scan of a video's packets tells.

    Args:
        path: the file.
        num_frames: frames that are there: counted, not what the header says.
        fps: mean frame rate, in frames a second.
        duration: seconds.
        width: of the stored picture in pixels, before rotation.
        height: of the stored picture in pixels, before rotation.
        codec: FFmpeg's name, such as h264.
        container: FFmpeg's name, such as matroska,webm.
        damage: how the file is cut short; empty if it does not seem to be.
        times: (num_frames,) seconds of each frame from the first one.
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
    times: np.ndarray = field(repr=False, compare=False)


def probe(path: str | Path) -> VideoInfo:
    """Count the frames of a video and read its size and times, without decoding it.

    Raises:
        VideoError: no such file, not a video, no frames.
    """
    with open_video(path) as (container, stream):
        return Scan(path, container, stream).info


@contextmanager
def reasons(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever FFmpeg and PyAV raise into a `VideoError`: theirs do not survive the way out of a worker."""
    try:
        yield
    except XViTError:
        raise
    except READ_ERRORS as error:
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(path, f"{what} ({' '.join(detail.lower().split())})") from None


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open file and its video stream.

    Raises:
        VideoError: no such file, not a video file.
    """
    if not os.path.exists(path):
        raise VideoError(path, "no such file")
    if os.path.isdir(path):
        raise VideoError(path, "a folder, not a video file")
    if not os.path.isfile(path):
        raise VideoError(path, "not a regular file")
    if os.path.getsize(path) == 0:
        raise VideoError(path, "an empty file (0 bytes)")
    with reasons(path, "not a readable video file, or cut short"):
        # "file:" keeps a colon in a name from being taken for a protocol.
        container: InputContainer = av.open(f"file:{os.fspath(path)}", "r", options=_OPTIONS, **_METADATA)
    with container:
        # The picture on the cover of a piece of music is a video stream to FFmpeg.
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise VideoError(path, "no video in it" + (", only sound" if container.streams.audio else ""))
        if streams[0].codec_context is None:
            raise VideoError(path, "no decoder for its video, or its header is damaged")
        streams[0].codec_context.thread_count = 1  # more cost a third of the throughput of several workers
        yield container, streams[0]


class Scan:
    """What the packets say.

    Attributes:
        info: the video in a few numbers.
        pts: timestamps of the frames, ascending; those that are known.
        keys: timestamps of the keyframes, ascending.
        named: each frame has a timestamp of its own, and the first one can be reached from a keyframe.

    Args:
        path: the file.
        container: the open file, read to its end here.
        stream: its video.

    Raises:
        VideoError: not readable, no frames.
    """

    def __init__(self, path: str | Path, container: InputContainer, stream: VideoStream) -> None:
        shown: list[int | None] = []
        keys: list[int | None] = []
        corrupt = 0
        end = 0.0  # of the last packet, in seconds
        with reasons(path, "not a readable video file"):
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                corrupt += packet.is_corrupt
                if packet.is_keyframe:
                    keys.append(packet.pts)
                if not packet.is_discard:  # an edit list hides frames that others refer to
                    shown.append(packet.pts)
                end = max(end, _end(packet))
        context, count = stream.codec_context, len(shown)
        if not shown or not context.width or not context.height:
            raise VideoError(path, "no frames in it")
        if max(context.width, context.height) > MAX_ASPECT * min(context.width, context.height):
            raise VideoError(path, f"a picture of {context.width}x{context.height} pixels is no video")
        self.pts = sorted(pts for pts in shown if pts is not None)
        self.keys = sorted(pts for pts in keys if pts is not None)
        self.named = (
            container.format.name in _INDEXED_CONTAINERS
            and context.codec.canonical_name in _ONE_FRAME_A_PACKET
            and len(set(self.pts)) == count
            and bool(self.keys)
            and self.keys[0] <= self.pts[0]
        )
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        times = np.arange(count) / fps
        if len(self.pts) == count and self.pts[-1] > self.pts[0]:
            times = (np.array(self.pts) - self.pts[0]) * float(stream.time_base or 1)
            fps = (count - 1) / float(times[-1])
        self.info = VideoInfo(
            path=str(path),
            num_frames=count,
            fps=fps,
            duration=count / fps,
            width=context.width,
            height=context.height,
            codec=context.codec.canonical_name,
            container=container.format.name,
            damage=_damage(path, container, stream, count - corrupt, end),
            times=times,
        )


def _end(packet: av.Packet) -> float:
    return float(((packet.pts or 0) + (packet.duration or 0)) * (packet.time_base or 0))


def _damage(path: str | Path, container: InputContainer, stream: VideoStream, whole: int, end: float) -> str:
    """Say so if the container promises more than is there. MPEG streams and GIF promise nothing.

    Args:
        whole: video packets that are there, whole.
        end: seconds at which the last of them ends.
    """
    if container.format.name == "avi" and whole < 0.98 * stream.frames - 2:  # a promise of two too many is usual
        return f"cut short: {whole} of its {stream.frames} frames are there"
    if "mp4" in container.format.name:  # its index says where each frame lies
        size = os.path.getsize(path)
        lost = sum(entry.pos + entry.size > size for entry in stream.index_entries)
        if lost:
            return f"cut short: {whole} of its {whole + lost} frames are there"
    if container.format.name == "matroska,webm" and container.duration:
        promised = container.duration / av.time_base
        enough = promised - max(0.5, 0.02 * promised)
        if end < enough:  # sound may go on after the picture
            container.seek(0)
            end = max([end, *(_end(packet) for packet in container.demux())])
        if end < enough:
            return f"cut short: {end:.1f} of its {promised:.1f} s are there"
    return ""
