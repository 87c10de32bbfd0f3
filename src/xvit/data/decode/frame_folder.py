"""A folder of extracted frames, read like a video file: frame_0000000001.jpg, frame_0000000002.jpg, ...

The pictures are numbered by their order, whatever number theirs begin with; a frame's time is its index / fps. Only the
wanted pictures are decoded: of the first one, which tells the size of all, no more than the header is read.
"""

import os
import re
from pathlib import Path

import av
import numpy as np

from xvit.data.decode.probe import MAX_ASPECT, VideoInfo, reasons
from xvit.utils.errors import VideoError, check_range

PICTURE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})
PICTURE_FPS = 30.0  # where nobody says

_DECODERS = {b"\xff\xd8": "mjpeg", b"\x89P": "png"}  # by how the file begins: extensions are often wrong
_MAX_BYTES = 2**28
_MAX_PIXELS = 2**26  # 8192 x 8192: a few bytes of PNG can promise gigabytes
# A decoder is given the bytes themselves: FFmpeg's readers of picture files take a % in a name for a pattern.
_OPTIONS = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}


def is_picture(name: str) -> bool:
    """Whether a file of this name counts as a frame."""
    return os.path.splitext(name)[1].lower() in PICTURE_EXTENSIONS and not name.startswith(".")


def scan_pictures(path: str | Path, fps: float | None = None) -> tuple[VideoInfo, list[str]]:
    """What a folder of frames holds.

    Args:
        path: the folder.
        fps: frames a second; 30 if None.

    Returns:
        The same as a scan of a video file tells, and the pictures in the order of their numbers.

    Raises:
        VideoError: no such folder, no pictures, pictures of several series, a first one that is not readable.
        XViTError: fps that is no positive number.
    """
    fps = PICTURE_FPS if fps is None else fps
    check_range("fps", fps, 0.001)
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if is_picture(entry.name) and entry.is_file()]
    except OSError as error:
        raise VideoError(path, f"not a readable folder ({(error.strerror or 'no reason given').lower()})") from None
    if not names:
        raise VideoError(path, "a folder without videos or pictures of one (frame_0000000001.jpg, ...)")
    # Of a TSN-like folder img_00001.jpg, flow_x_00001.jpg, ... no order makes a video.
    series = sorted({re.sub(r"[0-9]+", "#", os.path.splitext(name)[0]) for name in names})
    if len(series) > 1:
        raise VideoError(path, f'pictures of several series, such as "{series[0]}" and "{series[1]}": expected one')
    names.sort(key=_numbers)
    pictures = [os.path.join(path, name) for name in names]
    codec, width, height = _size(pictures[0])
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError(pictures[0], f"a picture of {width}x{height} pixels is no frame of a video")
    info = VideoInfo(
        path=str(path),
        num_frames=len(names),
        fps=fps,
        duration=len(names) / fps,
        width=width,
        height=height,
        codec=codec,
        container="folder",
        times=np.arange(len(names)) / fps,
    )
    return info, pictures


def open_picture(path: str) -> av.VideoFrame:
    """Decode one picture.

    Raises:
        VideoError: not a JPEG or PNG picture, damaged, cut short, larger than 8192 x 8192 pixels.
    """
    context, data = _decoder(path)
    with reasons(path, "not a readable picture, or cut short"):
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if len(frames) != 1 or frames[0].is_corrupt:
        raise VideoError(path, "not a readable picture, or cut short")
    return frames[0]


def _size(path: str) -> tuple[str, int, int]:
    """Name of the decoder, width and height in pixels, from the header."""
    context, data = _decoder(path)
    context.skip_frame = "ALL"
    with reasons(path, "not a readable picture, or cut short"):
        context.decode(av.Packet(data))
    if not context.width or not context.height:
        raise VideoError(path, "not a readable picture")
    return context.codec.name, context.width, context.height


def _decoder(path: str) -> tuple[av.VideoCodecContext, bytes]:
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            data = file.read() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise VideoError(path, f"not readable ({(error.strerror or 'no reason given').lower()})") from None
    if size == 0:
        raise VideoError(path, "an empty file (0 bytes)")
    name = _DECODERS.get(data[:2])
    if name is None:
        raise VideoError(path, "not a JPEG or PNG picture")
    if name == "mjpeg" and b"\xff\xd9" not in data:  # the end marker: without it the last rows are made up
        raise VideoError(path, "a picture that is cut short")
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = _OPTIONS
    return context, data


def _numbers(name: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"[0-9]+", os.path.splitext(name)[0])], name
