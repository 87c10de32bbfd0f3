"""Read a long video file from start to end, a few frames at a time, without holding the file or its frames in memory.

decoded   0  1  2  3  4  5  6  7  8 ...      stride = 2
yielded   x     x     x     x     x          in chunks of 8: (n,) seconds and (n, H, W, C) uint8
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from xvit.data.decode.clock import Timing, choose_frames
from xvit.data.decode.demux import (
    READ_ERRORS,
    error_reason,
    from_first_keyframe,
    open_video,
    read_packets,
    scan_file,
    video_errors,
)
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.data.decode.video import check_frame_size, frame_to_rgb
from xvit.data.sampling import slow_warning
from xvit.data.timeout import restart_deadline
from xvit.utils.errors import VideoError, check_range
from xvit.utils.parallel import check_stop

_CHUNK_FRAMES = 8


class FrameReader:
    """An iterable over every `stride`-th frame of a video file, or of the video at another frame rate, in order.

    A damaged file yields the frames that can be decoded: packets that fail are left out, and a file that is cut short
    ends early. `damage` then says so. Memory holds one chunk, the decoder's frames, and 8 bytes per frame for `info`.

    A frame's time comes from its own timestamp, so that frames lost to damage do not shift the later ones; where that
    is no guide, `xvit.data.decode.clock` says what counts. These are the times of `info`.

    Args:
        path: a video file.
        stride: distance between yielded frames; the first frame is always yielded.
        frame_rate: frames per second that `stride` counts in: the frame on display each stride / frame_rate seconds is
            yielded, with that time, and a frame that is on display for longer is repeated. None counts the frames of
            the file.
        short_side: target size in pixels; frames more than twice as large are shrunk to it during colour conversion.

    Attributes:
        info: the result of a scan of the packets.
        num_decoded: frames decoded so far.
        end_time: seconds at which the last decoded frame ends.
        warnings: what to tell whoever uses the frames, in words: nothing about damage.
        damage: what is wrong with the file, as far as it has been read; empty if nothing.

    Raises:
        VideoError: no such file, not a video, no frames.
        XViTError: stride or frame_rate is out of range.
    """

    def __init__(
        self, path: str | Path, *, stride: int = 1, frame_rate: float | None = None, short_side: int | None = None
    ) -> None:
        check_range("stride", stride, 1)
        if frame_rate is not None:
            check_range("frame_rate", frame_rate, 0.001, 1000)
        self.path, self.stride, self.frame_rate, self.short_side = path, stride, frame_rate, short_side
        scan = scan_file(path)
        self.info, self._corrupt_pts = scan.info, scan.corrupt_pts
        slow = slow_warning(self.info.fps, frame_rate / stride) if frame_rate is not None else ""
        self.warnings = (*self.info.warnings, slow) if slow else self.info.warnings
        self._reset()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decode from the start.

        Yields:
            Seconds from the first frame (n,), ascending, and frames (n, H, W, C) uint8 RGB, 1 <= n <= 8.

        Raises:
            VideoError: none of its frames can be decoded, one cannot be converted, or their size changes.
        """
        self._reset()
        with video_errors(self.path, "cannot be read to its end"):
            images = self._images()
            while chunk := list(islice(images, _CHUNK_FRAMES)):
                times, arrays = zip(*chunk, strict=True)
                yield np.array(times), np.stack(arrays)
        if self.num_decoded == 0:
            raise VideoError(self.path, "none of its frames can be decoded")

    def _reset(self) -> None:
        self.num_decoded, self.end_time, self.damage = 0, 0.0, self.info.damage

    def _images(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the times of the chosen frames, and the frames as (H, W, C) uint8 RGB."""
        converted, rgb = None, np.empty(0)
        chosen = choose_frames(
            self._decode(),
            stride=self.stride,
            frame_rate=self.frame_rate,
            interval=1 / self.info.fps,
            end=self.info.duration,
        )
        for decoded, time in chosen:
            if time is None:
                continue
            if decoded is not converted:  # a repeated frame is converted once
                converted, rgb = decoded, frame_to_rgb(*decoded, self.short_side)
            yield time, rgb

    def _decode(self) -> Iterator[tuple[float, tuple[av.VideoFrame, Orientation]]]:
        """Yield the time of every frame, the frame and how it is shown."""
        size, num_damaged, orientation = None, 0, Orientation()
        with open_video(self.path) as (container, stream):
            timing = Timing.of(container, stream)
            clock = timing.clock()
            packets = from_first_keyframe(read_packets(container, stream), self.info)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except READ_ERRORS as error:
                    self._add_damage(f"cannot be read beyond {self.end_time:.1f} s ({error_reason(error)})")
                    break
                try:
                    frames = packet.decode()
                except READ_ERRORS:
                    num_damaged += 1
                    continue
                for frame in frames:
                    check_stop()
                    restart_deadline()  # the whole of a long video may take hours
                    orientation = read_orientation(frame, orientation)
                    size = check_frame_size(self.path, orientation.displayed_size(frame), size)
                    num_damaged += frame.is_corrupt or frame.pts in self._corrupt_pts
                    if not orientation.exact and ODD_MATRIX not in self.warnings:
                        self.warnings = (*self.warnings, ODD_MATRIX)
                    time = clock.tick(timing.seconds(frame))
                    self.num_decoded, self.end_time = self.num_decoded + 1, time + 1 / self.info.fps
                    yield time, (frame, orientation)
        if 0 < self.num_decoded < 0.9 * self.info.num_frames:  # a few packets without a frame are usual
            self._add_damage(f"only {self.num_decoded} of its {self.info.num_frames} frames can be decoded")
        if num_damaged:
            self._add_damage(f"{num_damaged} damaged packets or frames")

    def _add_damage(self, text: str) -> None:
        self.damage = f"{self.damage}; {text}" if self.damage else text
