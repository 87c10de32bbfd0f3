"""Read a long video file from start to end, a few frames at a time, without holding the file or its frames in memory.

decoded   0  1  2  3  4  5  6  7  8 ...      stride = 2
yielded   x     x     x     x     x          in chunks of 8: (n,) seconds and (n, C, H, W) uint8
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xvit.data.decode.demux import READ_ERRORS, error_reason, open_video, probe_file
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, read_orientation
from xvit.data.decode.video import check_frame_size, frame_to_rgb
from xvit.utils.errors import VideoError, check_range

_CHUNK_FRAMES = 8


class FrameReader:
    """An iterable over every `stride`-th frame of a video file, in order.

    A damaged file yields the frames that can be decoded: packets that fail are left out, and a file that is cut short
    ends early. `damage` then says so. Memory holds one chunk, the decoder's frames, and 8 bytes per frame for `info`.

    A frame's time comes from its own timestamp, so that frames lost to damage do not shift the later ones. Where the
    timestamp is missing (as in AVI) or goes back, the frame follows the previous one by 1 / fps.

    Args:
        stride: distance between yielded frames; the first frame is always yielded.
        short_side: target size in pixels; frames more than twice as large are shrunk to it during colour conversion.

    Attributes:
        info: the result of a scan of the packets.
        num_decoded: frames decoded so far.
        end_time: seconds at which the last decoded frame ends.
        damage: what is wrong with the file, as far as it has been read; empty if nothing.

    Raises:
        VideoError: no such file, not a video, no frames.
    """

    def __init__(self, path: str | Path, *, stride: int = 1, short_side: int | None = None) -> None:
        check_range("stride", stride, 1)
        self.path, self.stride, self.short_side = path, stride, short_side
        self.info = probe_file(path)
        self._reset()

    def __iter__(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Decode from the start.

        Yields:
            Seconds from the first frame (n,), ascending, and frames (n, C, H, W) uint8 RGB, 1 <= n <= 8.

        Raises:
            VideoError: none of its frames can be decoded, or their size changes.
        """
        self._reset()
        images = self._decode()
        while chunk := list(islice(images, _CHUNK_FRAMES)):
            times, arrays = zip(*chunk, strict=True)
            yield np.array(times), torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)  # NHWC -> NCHW
        if self.num_decoded == 0:
            raise VideoError(self.path, "none of its frames can be decoded")

    def _reset(self) -> None:
        self.num_decoded, self.end_time, self.damage = 0, 0.0, self.info.damage

    def _decode(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the time of every `stride`-th frame, and the frame as (H, W, C) uint8 RGB."""
        size, start, time, num_damaged = None, 0.0, 0.0, 0
        orientation = Orientation()
        with open_video(self.path) as (container, stream):
            has_pts = container.format.name != "avi"  # PyAV reports AVI's decoding times, which are in another order
            packets = container.demux(stream)
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
                    orientation = read_orientation(frame, orientation)
                    size = check_frame_size(self.path, orientation.displayed_size(frame), size)
                    num_damaged += bool(frame.is_corrupt)
                    pts = frame.time if has_pts else None
                    if self.num_decoded == 0:
                        if not orientation.exact:
                            self._add_damage(ODD_MATRIX)
                        start = pts or 0.0
                    else:
                        time = self.end_time if pts is None or pts - start <= time else pts - start
                    self.num_decoded, self.end_time = self.num_decoded + 1, time + 1 / self.info.fps
                    if (self.num_decoded - 1) % self.stride == 0:
                        yield time, frame_to_rgb(frame, orientation, self.short_side)
        if 0 < self.num_decoded < 0.9 * self.info.num_frames:  # a few packets without a frame are usual
            self._add_damage(f"only {self.num_decoded} of its {self.info.num_frames} frames can be decoded")
        if num_damaged:
            self._add_damage(f"{num_damaged} damaged packets or frames")

    def _add_damage(self, text: str) -> None:
        self.damage = f"{self.damage}; {text}" if self.damage else text
