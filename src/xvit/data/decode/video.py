"""Video file -> Clip: exact frames by their index, decoded with PyAV (FFmpeg), nothing taken from metadata on trust.

    0     1     2     3     4     5     6     7        index of a decoded frame, in order of display
    |-----|-----|-----|-----|-----|-----|-----|--▶ s   its time, from the file's timestamps (they may be uneven)
    K                       K                          keyframes: decoding can start at one of them only

One scan over the packets, which decodes nothing, counts the frames and finds the keyframes. Where the timestamps name
each frame (mp4, mov, mkv, webm), only what the wanted frames need is decoded: seek to the keyframe before, skip frames
that no other frame refers to. Otherwise, and whenever that meets anything odd, frames are decoded in order and counted.

A folder of extracted frames stands for a video everywhere: see `xvit.data.decode.frame_folder`.

Not done: pixels that are not square are not stretched (sample aspect ratio), interlaced fields are not separated.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream

from xvit.data.decode import probe as files
from xvit.data.decode.frame_folder import open_picture, scan_pictures
from xvit.data.decode.probe import READ_ERRORS, Scan, VideoInfo, open_video, reasons
from xvit.utils.errors import VideoError, XViTError

__all__ = ["VIDEO_EXTENSIONS", "Clip", "VideoInfo", "decode", "probe", "read_clip"]

VIDEO_EXTENSIONS = frozenset({".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"}) | {
    *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
}

_SKIPPABLE = {"h264", "hevc"}  # FFmpeg's decoders that leave out unreferenced frames exactly (measured)
_SEEK_GAIN = 4  # frames that a seek must save: for fewer, reading on is as quick


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames of one video.

    Args:
        path: the file, or the folder of frames.
        frames: (T, C, H, W) uint8 RGB: a view of a (T, H, W, C) array, which is the layout quickest to resize.
        times: (T,) seconds from the video's first frame.
        indices: (T,) which frames of the video they are.
        info: the video they come from.
        repeated: how many were asked for beyond the end, where the last frame stands in for them.
        damaged: how many the decoder itself flags as damaged (it does not see all damage), and, with strict=False,
            how many packets it refused.

    Raises:
        XViTError: shapes or types that do not fit together.
    """

    path: str
    frames: torch.Tensor
    times: np.ndarray
    indices: np.ndarray
    info: VideoInfo
    repeated: int = 0
    damaged: int = 0

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise XViTError(f"frames of {self.frames.dtype} {shape}: expected torch.uint8 (T, 3, H, W)")
        if not self.times.shape == self.indices.shape == shape[:1]:
            raise XViTError(
                f"{shape[0]} frames, {self.times.shape} times, {self.indices.shape} indices: expected as many"
            )

    def __repr__(self) -> str:
        frames, _, height, width = self.frames.shape
        notes = f", {self.repeated} repeated" * bool(self.repeated) + f", {self.damaged} damaged" * bool(self.damaged)
        return (
            f"Clip({self.path}: {frames} frames of {width}x{height}, {self.indices.min()} to {self.indices.max()} "
            f"of {self.info.num_frames}, {self.times.min():.2f} to {self.times.max():.2f} s{notes})"
        )


def probe(path: str | Path, *, fps: float | None = None) -> VideoInfo:
    """Count the frames of a video and read its size and times, without decoding it.

    Args:
        path: the file, or a folder of frames.
        fps: frames a second of a folder of frames, 30 if None; a file says it itself.

    Raises:
        VideoError: no such file, not a video, no frames.
    """
    return scan_pictures(path, fps)[0] if os.path.isdir(path) else files.probe(path)


def decode(
    path: str | Path, indices: Sequence[int] | np.ndarray, *, short_side: int | None = None, strict: bool = True
) -> Clip:
    """Read the frames of the given indices: `read_clip` where the number of frames does not matter."""
    return read_clip(path, lambda info: indices, short_side=short_side, strict=strict)


def read_clip(
    path: str | Path,
    choose: Callable[[VideoInfo], Sequence[int] | np.ndarray],
    *,
    short_side: int | None = None,
    strict: bool = True,
    fps: float | None = None,
) -> Clip:
    """Open a video once, choose frames knowing how many there are, and read them.

    Args:
        path: the file, or a folder of frames.
        choose: gives the wanted indices, in any order, repeats allowed; beyond the end the last frame is taken. It is
            asked a second time if decoding finds fewer frames than the file has packets.
        short_side: pixels wanted; pictures over twice as large are shrunk to it while their colours are converted.
        strict: False takes what can be had of a damaged file, packets that fail being left out and counted, so that
            the indices after them shift.
        fps: frames a second of a folder of frames, 30 if None; a file says it itself.

    Raises:
        VideoError: no such file, not a video, no frames; a picture of a folder that cannot be decoded; with `strict`,
            also a file that is cut short or frames that cannot be decoded.
        XViTError: no index, or a negative one.
    """
    if os.path.isdir(path):
        return _read_pictures(path, choose, short_side, fps)
    with open_video(path) as (container, stream):
        scan = Scan(path, container, stream)
        info = scan.info
        if strict and info.damage:
            raise VideoError(path, info.damage)
        indices = _checked(choose(info))
        wanted = np.unique(np.minimum(indices, info.num_frames - 1))
        pictures = _decode_selected(scan, container, stream, wanted.tolist(), short_side) if scan.named else None
    while pictures is None or not pictures.complete:
        with open_video(path) as (container, stream):  # anew: not every container can be wound back
            pictures = _decode_in_order(path, container, stream, wanted.tolist(), short_side, strict)
        if not pictures.complete:  # packets without a picture: a few are usual in some AVI and MPEG files
            if pictures.seen == 0:
                raise VideoError(path, "none of its frames can be decoded")
            if strict and pictures.seen < 0.9 * info.num_frames:
                raise VideoError(path, f"only {pictures.seen} of its {info.num_frames} frames can be decoded")
            info = replace(info, num_frames=pictures.seen, times=info.times[: pictures.seen])
            indices = _checked(choose(info))
            wanted = np.unique(np.minimum(indices, info.num_frames - 1))
    return _clip(info, pictures, indices, wanted)


def _read_pictures(
    path: str | Path,
    choose: Callable[[VideoInfo], Sequence[int] | np.ndarray],
    short_side: int | None,
    fps: float | None,
) -> Clip:
    info, names = scan_pictures(path, fps)
    indices = _checked(choose(info))
    wanted = np.unique(np.minimum(indices, info.num_frames - 1))
    pictures = _Pictures(path, len(wanted), short_side)
    for index in wanted.tolist():
        frame = open_picture(names[index])
        pictures.see(frame)
        pictures.add(frame)
    return _clip(info, pictures, indices, wanted)


def _clip(info: VideoInfo, pictures: "_Pictures", indices: np.ndarray, wanted: np.ndarray) -> Clip:
    """The clip of `indices`, from pictures of the `wanted` ones, which ascend without repeats."""
    shown = np.minimum(indices, info.num_frames - 1)
    array = pictures.array if np.array_equal(shown, wanted) else pictures.array[np.searchsorted(wanted, shown)]
    return Clip(
        path=info.path,
        frames=torch.from_numpy(array).permute(0, 3, 1, 2),  # (T, H, W, C) -> (T, C, H, W), a view
        times=info.times[shown],
        indices=shown,
        info=info,
        repeated=int((indices >= info.num_frames).sum()),
        damaged=pictures.damaged,
    )


def upright_rgb(frame: av.VideoFrame, short_side: int | None) -> np.ndarray:
    """A decoded picture as (H, W, C) uint8, turned as it is to be shown; shrunk as `read_clip` says."""
    width, height = frame.width, frame.height
    if short_side is not None and min(width, height) > 2 * short_side:
        scale = short_side / min(width, height)
        width, height = round(width * scale), round(height * scale)
    rgb = frame.reformat(width, height, format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    return np.rot90(rgb, round(frame.rotation / 90))  # FFmpeg leaves the turning to the player


def _checked(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or indices.size == 0 or indices.min() < 0:
        raise XViTError(f"indices={indices.tolist()}: expected at least one, none negative")
    return indices


class _Pictures:
    """The wanted frames as they come in: one (T, H, W, C) array, filled frame by frame."""

    def __init__(self, path: str | Path, number: int, short_side: int | None) -> None:
        self.path, self.number, self.short_side = path, number, short_side
        self.array = np.empty(0, np.uint8)
        self.filled = self.seen = self.damaged = 0
        self.size: tuple[int, int] | None = None

    @property
    def complete(self) -> bool:
        return self.filled == self.number

    def see(self, frame: av.VideoFrame) -> None:
        if self.size is None:
            self.size = frame.width, frame.height
        if self.size != (frame.width, frame.height):
            before, now = "x".join(map(str, self.size)), f"{frame.width}x{frame.height}"
            raise VideoError(self.path, f"the picture size changes within the video, from {before} to {now}")
        self.seen += 1

    def add(self, frame: av.VideoFrame) -> None:
        rgb = upright_rgb(frame, self.short_side)
        if self.filled == 0:
            self.array = np.empty((self.number, *rgb.shape), np.uint8)
        self.array[self.filled] = rgb
        self.filled += 1
        self.damaged += bool(frame.is_corrupt)


def _decode_in_order(
    path: str | Path,
    container: InputContainer,
    stream: VideoStream,
    wanted: list[int],
    short_side: int | None,
    strict: bool,
) -> _Pictures:
    """Decode from the start and count; stop after the last wanted frame. `wanted` ascends, without repeats."""
    pictures = _Pictures(path, len(wanted), short_side)
    with reasons(path, "cannot be read to its end"):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if strict:
                    raise VideoError(path, f"damaged after frame {pictures.seen} ({error.strerror})") from None
                pictures.damaged += 1
                continue
            for frame in frames:
                pictures.see(frame)
                if pictures.seen - 1 == wanted[pictures.filled]:
                    pictures.add(frame)
                    if pictures.complete:
                        return pictures
    return pictures


def _decode_selected(
    scan: Scan, container: InputContainer, stream: VideoStream, wanted: list[int], short_side: int | None
) -> _Pictures | None:
    """Decode only what the wanted frames need; None if the timestamps do not lead to exactly these frames."""
    pictures = _Pictures(scan.info.path, len(wanted), short_side)
    due = [scan.pts[index] for index in wanted]
    targets = set(due)
    packets: Iterator[av.Packet[VideoStream]] = iter(())
    fed = -1  # index of the latest frame given to the decoder
    try:
        while not pictures.complete:
            key = scan.keys[bisect_right(scan.keys, due[pictures.filled]) - 1]
            first = max(bisect_right(scan.pts, key) - 1, 0)
            if fed < 0 or first > fed + _SEEK_GAIN:
                container.seek(key, stream=stream)
                packets, fed = container.demux(stream), first
            packet = next(packets)
            if packet.pts is not None:
                fed = max(fed, bisect_right(scan.pts, packet.pts) - 1)
            if scan.info.codec in _SKIPPABLE:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
            for frame in packet.decode():
                pictures.see(frame)
                if pictures.complete or frame.pts is None or frame.pts < due[pictures.filled]:
                    continue
                if frame.pts > due[pictures.filled] or frame.is_corrupt:
                    return None
                pictures.add(frame)
    except (*READ_ERRORS, StopIteration):
        return None  # reading in order decides whether the file is at fault, and says so
    return pictures
