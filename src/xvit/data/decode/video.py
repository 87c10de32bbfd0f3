"""Video file -> Clip: exact frames by index, decoded with PyAV (FFmpeg) without trusting the file's metadata.

    0     1     2     3     4     5     6     7        index of a decoded frame, in display order
    |-----|-----|-----|-----|-----|-----|-----|--▶ s   its time, from the file's timestamps (they may be uneven)
    K                       K                          keyframes: decoding can only start at one of them

A first scan over the packets, without decoding, counts the frames and finds the keyframes. Where each frame has a
timestamp of its own (mp4, mov, mkv, webm), only the necessary frames are decoded: seek to the keyframe before, skip
frames that no other frame refers to. In all other cases, and after any inconsistency, frames are decoded in order and
counted. A folder of extracted frames can take the place of a video file: see `xvit.data.decode.frame_folder`.

Frames are turned and mirrored as players show them: see `xvit.data.decode.orientation`.
Not supported: non-square pixels are not stretched (sample aspect ratio), and interlaced fields are not separated.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from xvit.data.decode.clock import Timing
from xvit.data.decode.demux import (
    READ_ERRORS,
    PacketScan,
    VideoInfo,
    from_first_keyframe,
    open_video,
    probe_file,
    read_packets,
    scan_video,
    video_errors,
)
from xvit.data.decode.frame_folder import decode_image, scan_frame_folder
from xvit.data.decode.limits import check_dimensions
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.utils.errors import VideoError, XViTError

_SKIPPABLE = {"h264", "hevc"}  # codecs whose FFmpeg decoders skip unreferenced frames exactly (measured)
_MAX_EMPTY_PACKETS = 2  # a few packets without a frame are usual in AVI and MPEG files
_MIN_SEEK_GAIN = 4  # frames: to skip fewer, decoding on is as fast as seeking

IndexChooser = Callable[[VideoInfo], Sequence[int] | np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames of one video.

    Args:
        path: the file, or the folder of frames.
        frames: (T, H, W, C) uint8 RGB.
        times: (T,) seconds from the video's first frame.
        indices: (T,) index of each frame in the video.
        info: the video that the frames come from.
        num_repeated: how many requested indices were beyond the end; the last frame is used for them.
        num_damaged: damaged frames that the clip depends on: those that the decoder flags (it does not detect all
            damage) among the frames read and the frames between each of them and the keyframe before it; with
            strict=False also packets that it rejected, which shift the frames after them.
        warnings: what to tell whoever uses the frames, in words, such as "2 damaged frames"; empty if all is well.
            Indices beyond the end are no warning.

    Raises:
        XViTError: wrong type, or shapes that do not match.
    """

    path: str
    frames: np.ndarray
    times: np.ndarray
    indices: np.ndarray
    info: VideoInfo
    num_repeated: int = 0
    num_damaged: int = 0
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise XViTError(f"frames of {self.frames.dtype} {shape}: expected uint8 (T, H, W, 3)")
        if not self.times.shape == self.indices.shape == shape[:1]:
            sizes = f"{shape[0]} frames, times {self.times.shape}, indices {self.indices.shape}"
            raise XViTError(f"{sizes}: expected one time and one index per frame")

    def __repr__(self) -> str:
        frames, height, width, _ = self.frames.shape
        repeated = (f"{self.num_repeated} repeated",) if self.num_repeated else ()
        notes = "".join(f", {note}" for note in (*repeated, *self.warnings))
        return (
            f"Clip({self.path}: {frames} frames of {width}x{height}, {self.indices.min()} to {self.indices.max()} "
            f"of {self.info.num_frames}, {self.times.min():.2f} to {self.times.max():.2f} s{notes})"
        )


def probe(path: str | Path, *, fps: float | None = None) -> VideoInfo:
    """Count the frames of a video and read its size and times, without decoding it.

    Args:
        path: the file, a video in a shard (SHARD.tar/KEY.mp4), or a folder of frames.
        fps: frames per second of a folder of frames, 30 if None; a file has its own rate.

    Raises:
        VideoError: no such file, not a video, no frames; a folder with images of several sequences.
        XViTError: fps is not a positive number.
    """
    with video_errors(path, "cannot be read"):
        return scan_frame_folder(path, fps)[0] if os.path.isdir(path) else probe_file(path)


def decode(
    path: str | Path, indices: Sequence[int] | np.ndarray, *, short_side: int | None = None, strict: bool = True
) -> Clip:
    """Read the frames of the given indices: `read_clip` where the number of frames does not matter."""
    return read_clip(path, lambda info: indices, short_side=short_side, strict=strict)


def read_clip(
    path: str | Path,
    choose_indices: IndexChooser,
    *,
    short_side: int | None = None,
    strict: bool = True,
    fps: float | None = None,
) -> Clip:
    """Open a video once, choose frame indices from its `VideoInfo`, and read these frames.

    Args:
        path: the file, a video in a shard, or a folder of frames.
        choose_indices: returns the indices to read, in any order, repeats allowed; beyond the end the last frame is
            used. It is called a second time if decoding finds fewer frames than the file has packets.
        short_side: target size in pixels; frames more than twice as large are shrunk to it during colour conversion.
        strict: False reads what can be decoded of a damaged file: packets that fail are counted and left out, which
            shifts the indices after them.
        fps: frames per second of a folder of frames, 30 if None; a file has its own rate.

    Raises:
        VideoError: no such file, not a video, no frames; an image of a folder that cannot be decoded; with `strict`,
            also a file that is cut short or frames that cannot be decoded.
        XViTError: no index, or a negative one; fps is not a positive number.
    """
    try:
        with video_errors(path, "cannot be read"):
            if os.path.isdir(path):
                return _read_folder(path, choose_indices, short_side, fps)
            return _read_file(path, choose_indices, short_side, strict)
    except _ChooserError as error:
        raise error.original from None


class _ChooserError(XViTError):
    """An error of the caller's `choose_indices`, which is no fault of the video."""

    def __init__(self, original: Exception) -> None:
        super().__init__(str(original))
        self.original = original


def _read_folder(path: str | Path, choose_indices: IndexChooser, short_side: int | None, fps: float | None) -> Clip:
    info, images = scan_frame_folder(path, fps)
    buffer = FrameBuffer(info, choose_indices, short_side)
    for index in buffer.unique:
        buffer.orientation = Orientation()  # each image has its own
        buffer.add(decode_image(images[index]), requested=True)
    return buffer.to_clip()


def _read_file(path: str | Path, choose_indices: IndexChooser, short_side: int | None, strict: bool) -> Clip:
    with open_video(path) as (container, stream):
        scan = scan_video(path, container, stream)
        if strict and scan.info.damage:
            raise VideoError(path, scan.info.damage)
        buffer = FrameBuffer(scan.info, choose_indices, short_side, scan.corrupt_pts)
        if not (scan.seekable and decode_by_seeking(scan, container, stream, buffer)):
            buffer.clear()
    while not buffer.is_complete:
        with open_video(path) as (container, stream):  # reopened, because not every container can be rewound
            decode_in_order(container, stream, buffer, strict)
        if not buffer.is_complete:  # some AVI and MPEG files have a few packets without a frame
            info, num_decoded = buffer.info, buffer.num_decoded
            if num_decoded == 0:
                raise VideoError(path, "none of its frames can be decoded")
            shortage = f"only {num_decoded} of its {info.num_frames} frames can be decoded"
            if strict and num_decoded < 0.9 * info.num_frames:
                raise VideoError(path, shortage)
            damage = info.damage or (shortage if num_decoded < info.num_frames - _MAX_EMPTY_PACKETS else "")
            info = replace(info, num_frames=num_decoded, times=np.array(buffer.times), damage=damage)
            buffer = FrameBuffer(info, choose_indices, short_side, scan.corrupt_pts)
    return buffer.to_clip()


def frame_to_rgb(frame: av.VideoFrame, orientation: Orientation, short_side: int | None) -> np.ndarray:
    """Convert a decoded frame to (H, W, C) uint8 RGB, turned for display and shrunk as `read_clip` describes."""
    width, height = frame.width, frame.height
    if short_side is not None and min(width, height) > 2 * short_side:
        scale = short_side / min(width, height)
        width, height = round(width * scale), round(height * scale)
    rgb = frame.reformat(width, height, format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    return orientation.apply(rgb)


def check_frame_size(path: str | Path, size: tuple[int, int], expected: tuple[int, int] | None) -> tuple[int, int]:
    """Return the displayed width and height of a frame; raise `VideoError` if they differ from the expected ones.

    If none are expected, it is the first frame: raise `VideoError` if it is too large or too elongated.
    """
    if expected is None:
        check_dimensions(path, *size)  # the headers may say something else
    elif expected != size:
        before, after = (f"{width}x{height}" for width, height in (expected, size))
        raise VideoError(path, f"the frame size changes within the video, from {before} to {after}")
    return size


class FrameBuffer:
    """The requested frames of a video, filled in ascending order, and the number of frames decoded for them."""

    def __init__(
        self,
        info: VideoInfo,
        choose_indices: IndexChooser,
        short_side: int | None,
        corrupt_pts: frozenset[int] = frozenset(),
    ) -> None:
        try:
            requested = np.asarray(choose_indices(info), dtype=np.int64)
        except Exception as error:
            raise _ChooserError(error) from None
        if requested.ndim != 1 or requested.size == 0 or requested.min() < 0:
            raise XViTError(f"indices={requested.tolist()}: expected at least one, none negative")
        self.info, self.short_side, self.corrupt_pts = info, short_side, corrupt_pts
        self.num_repeated = int((requested >= info.num_frames).sum())
        self.indices = np.minimum(requested, info.num_frames - 1)
        self.unique = np.unique(self.indices)  # ascending: the order in which the frames are decoded
        self.clear()

    def clear(self) -> None:
        """Remove all frames, so that decoding can start again."""
        self.array = np.empty(0, np.uint8)  # (T, H, W, C), from the first frame on
        self.num_filled = self.num_decoded = self.num_damaged = 0
        self.times: list[float] = []  # of the frames that were decoded in order, by their own timestamps
        self._damaged_since_keyframe = 0  # not counted yet, because no requested frame depends on them so far
        self._all_on_time = True
        self.size: tuple[int, int] | None = None  # as displayed
        self.orientation = Orientation()  # of the latest frame
        self._all_exact = True

    @property
    def is_full(self) -> bool:
        """Whether all requested frames are in the buffer."""
        return self.num_filled == len(self.unique)

    @property
    def is_complete(self) -> bool:
        """Whether they are, and each has the time that the scan found for its index: no frame before it was lost."""
        return self.is_full and self._all_on_time

    def add(self, frame: av.VideoFrame, *, requested: bool, time: float | None = None) -> None:
        """Count a decoded frame and check its size; convert and keep it if it was requested.

        `time` is that of a frame decoded in order, in seconds by its own timestamp.
        """
        self.orientation = read_orientation(frame, self.orientation)
        self.size = check_frame_size(self.info.path, self.orientation.displayed_size(frame), self.size)
        self.num_decoded += 1
        if frame.key_frame:
            self._damaged_since_keyframe = 0
        self._damaged_since_keyframe += frame.is_corrupt or frame.pts in self.corrupt_pts
        if time is not None:
            self.times.append(time)
        if not requested:
            return
        if time is not None:
            self._all_on_time &= abs(time - self.info.times[self.num_decoded - 1]) < 0.5 / self.info.fps
        rgb = frame_to_rgb(frame, self.orientation, self.short_side)
        if self.num_filled == 0:
            self.array = np.empty((len(self.unique), *rgb.shape), np.uint8)
        self.array[self.num_filled] = rgb
        self.num_filled += 1
        self._all_exact &= self.orientation.exact
        self.num_damaged += self._damaged_since_keyframe
        self._damaged_since_keyframe = 0

    def to_clip(self) -> Clip:
        """Return the frames in the order in which they were requested."""
        in_order = np.array_equal(self.indices, self.unique)
        array = self.array if in_order else self.array[np.searchsorted(self.unique, self.indices)]
        damaged = f"{self.num_damaged} damaged frame{'s' * (self.num_damaged != 1)}" if self.num_damaged else ""
        odd = "" if self._all_exact else ODD_MATRIX
        return Clip(
            path=self.info.path,
            frames=array,
            times=self.info.times[self.indices],
            indices=self.indices,
            info=self.info,
            num_repeated=self.num_repeated,
            num_damaged=self.num_damaged,
            warnings=(*self.info.warnings, *filter(None, (self.info.damage, damaged, odd))),
        )


def decode_in_order(container: InputContainer, stream: av.VideoStream, buffer: FrameBuffer, strict: bool) -> None:
    """Decode from the start until the buffer is complete or the video ends."""
    path, timing = buffer.info.path, Timing.of(container, stream)
    clock = timing.clock()
    with video_errors(path, "cannot be read to its end"):
        for packet in from_first_keyframe(read_packets(container, stream), buffer.info):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if strict:
                    raise VideoError(path, f"damaged after frame {buffer.num_decoded} ({error.strerror})") from None
                buffer.num_damaged += 1
                continue
            for frame in frames:
                requested = not buffer.is_full and buffer.num_decoded == buffer.unique[buffer.num_filled]
                buffer.add(frame, requested=requested, time=clock.tick(timing.seconds(frame)))
                if buffer.is_complete:
                    return


def decode_by_seeking(scan: PacketScan, container: InputContainer, stream: av.VideoStream, buffer: FrameBuffer) -> bool:
    """Decode only the packets that the requested frames depend on; False if the timestamps do not lead to them."""
    targets = [scan.pts[index] for index in buffer.unique]
    target_set = set(targets)
    all_keyframes = len(scan.keyframe_pts) == len(scan.pts)  # if that is true, no frame depends on another one
    packets: Iterator[av.Packet[av.VideoStream]] = iter(())
    position = -1  # index of the latest frame given to the decoder
    try:
        while not buffer.is_full:
            keyframe = scan.keyframe_pts[bisect_right(scan.keyframe_pts, targets[buffer.num_filled]) - 1]
            first = max(bisect_right(scan.pts, keyframe) - 1, 0)
            if position < 0 or first > position + _MIN_SEEK_GAIN:
                container.seek(keyframe, stream=stream)
                packets, position = read_packets(container, stream), first
            packet = next(packets)
            if packet.pts is not None:
                position = max(position, bisect_right(scan.pts, packet.pts) - 1)
                if all_keyframes and packet.pts not in target_set:
                    continue
            if scan.info.codec in _SKIPPABLE:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in target_set else "NONREF"
            for frame in packet.decode():
                requested = not buffer.is_full and frame.pts is not None and frame.pts >= targets[buffer.num_filled]
                if requested and (frame.pts != targets[buffer.num_filled] or frame.is_corrupt):
                    return False
                if all_keyframes and not frame.key_frame:  # the decoder knows better than the container
                    return False
                buffer.add(frame, requested=requested)
    except (*READ_ERRORS, StopIteration):
        return False  # decoding in order then decides whether the file is damaged, and reports it
    return True
