"""A long video file -> its frames one after the other, a few at a time: the file is never held, nor its pictures.

decoded   0  1  2  3  4  5  6  7  8 ...      stride = 2
given     x     x     x     x     x          in chunks of 8: (n,) seconds and (n, C, H, W) uint8
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from xvit.data.decode.probe import READ_ERRORS, open_video, probe
from xvit.data.decode.video import upright_rgb
from xvit.utils.errors import VideoError, check_range

_CHUNK = 8  # frames


class FrameReader:
    """Each `stride`-th frame of a video, in order; to be iterated over.

    A damaged file gives what is in it: packets that fail are left out, and a file that is cut short ends where it ends.
    `damage` then says so. What stays in memory is a chunk, the decoder's few frames, and 8 bytes a frame for `info`.

    A frame's time is that of its own timestamp, so that frames lost to damage do not shift those after them; where
    there is none (as in AVI), or it goes back, the frame follows the one before by 1 / fps.

    Args:
        path: the file.
        stride: frames from one given frame to the next; the first frame is always given.
        short_side: pixels wanted; pictures over twice as large are shrunk to it while their colours are converted.

    Attributes:
        info: what a scan of the packets told.
        seen: frames decoded until now.
        end: seconds at which the last of them ends.
        damage: what is wrong with the file, as far as it shows until now; empty for nothing.

    Raises:
        VideoError: no such file, not a video, no frames.
    """

    def __init__(self, path: str | Path, *, stride: int = 1, short_side: int | None = None) -> None:
        check_range("stride", stride, 1)
        self.path, self.stride, self.short_side = path, stride, short_side
        self.info = probe(path)
        self._forget()

    def __iter__(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Decode from the start.

        Yields:
            Seconds from the first frame (n,), ascending, and frames (n, C, H, W) uint8 RGB, 1 <= n <= 8.

        Raises:
            VideoError: none of its frames can be decoded, or their size changes.
        """
        self._forget()
        times: list[float] = []
        pictures: list[np.ndarray] = []
        for time, frame in self._decoded():
            if (self.seen - 1) % self.stride == 0:
                times.append(time)
                pictures.append(upright_rgb(frame, self.short_side))
            if len(times) == _CHUNK:
                yield _chunk(times, pictures)
                times, pictures = [], []
        if self.seen == 0:
            raise VideoError(self.path, "none of its frames can be decoded")
        if times:
            yield _chunk(times, pictures)

    def _forget(self) -> None:
        self.seen, self.end, self.damage = 0, 0.0, self.info.damage

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        size, origin, time, damaged = None, 0.0, 0.0, 0
        with open_video(self.path) as (container, stream):
            stamped = container.format.name != "avi"  # for it PyAV hands on the times of decoding, in another order
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except READ_ERRORS as error:
                    self._note(f"cannot be read beyond {self.end:.1f} s ({_reason(error)})")
                    break
                try:
                    frames = packet.decode()
                except READ_ERRORS:
                    damaged += 1
                    continue
                for frame in frames:
                    found = frame.width, frame.height
                    size = size or found
                    if found != size:
                        before, now = "x".join(map(str, size)), "x".join(map(str, found))
                        raise VideoError(
                            self.path, f"the picture size changes within the video, from {before} to {now}"
                        )
                    damaged += bool(frame.is_corrupt)
                    stamp = float(frame.pts * (frame.time_base or 0)) if stamped and frame.pts is not None else None
                    if self.seen == 0:
                        origin = stamp or 0.0
                    else:
                        time = self.end if stamp is None or stamp - origin <= time else stamp - origin
                    self.seen, self.end = self.seen + 1, time + 1 / self.info.fps
                    yield time, frame
        if 0 < self.seen < 0.9 * self.info.num_frames:  # a few packets without a picture are usual
            self._note(f"only {self.seen} of its {self.info.num_frames} frames can be decoded")
        if damaged:
            self._note(f"{damaged} damaged packets or frames")

    def _note(self, text: str) -> None:
        self.damage = f"{self.damage}; {text}" if self.damage else text


def _chunk(times: list[float], pictures: list[np.ndarray]) -> tuple[np.ndarray, Tensor]:
    return np.array(times), torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W)


def _reason(error: BaseException) -> str:
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(detail.lower().split())
