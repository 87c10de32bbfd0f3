"""Read a folder of extracted frames (frame_0000000001.jpg, frame_0000000002.jpg, ...) like a video file.

The images are sorted by the numbers in their names. A frame's index is its place in that order, whatever the first
number is, and its time is index / fps. Only the requested images are decoded. The size of all images is read from the
header of the first one. Each image is turned and mirrored by its own Exif orientation; the sizes must then be equal.
"""

import os
import re
from pathlib import Path

import av
import numpy as np

from xvit.data.decode.demux import VideoInfo, error_reason, video_errors
from xvit.data.decode.limits import DECODER_OPTIONS, check_dimensions
from xvit.data.timeout import check_deadline
from xvit.utils.errors import VideoError, check_range

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})

_DECODERS = {b"\xff\xd8": "mjpeg", b"\x89P": "png"}  # by the first bytes of a file, because extensions are often wrong
_ASSUMED_RATE = 30.0  # frames per second
_MAX_BYTES = 2**28
_OPTIONS = {"err_detect": "explode"} | DECODER_OPTIONS
_PNG_SIGNATURE_BYTES = 8
_PNG_METADATA = {b"iCCP", b"iTXt", b"tEXt", b"zTXt"}
_JPEG_HEADER = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xd8]")  # of a picture: SOF, SOI
_UNREADABLE = "not a readable image, or cut short"


def is_image_file(name: str) -> bool:
    """Whether a file of this name counts as a frame."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def scan_frame_folder(path: str | Path, fps: float | None = None) -> tuple[VideoInfo, list[str]]:
    """Return the same information as for a video file, and the paths of the images in order.

    Without `fps`, 30 frames per second are assumed, and a warning says so.
    """
    warnings = () if fps is not None else (f"no timestamps: {_ASSUMED_RATE:g} frames per second assumed",)
    fps = _ASSUMED_RATE if fps is None else fps
    check_range("fps", fps, 0.001)
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if is_image_file(entry.name) and entry.is_file()]
    except OSError as error:
        raise VideoError(path, f"not a readable folder ({error_reason(error)})") from None
    if not names:
        raise VideoError(path, "a folder without videos or frame images (frame_0000000001.jpg, ...)")
    # A folder of img_00001.jpg, flow_x_00001.jpg, ... is not one video, in whatever order.
    sequences = sorted({re.sub(r"[0-9]+", "#", os.path.splitext(name)[0]) for name in names})
    if len(sequences) > 1:
        first, second, *_ = sequences
        raise VideoError(path, f'images of several sequences, such as "{first}" and "{second}": expected one sequence')
    names.sort(key=lambda name: ([int(number) for number in re.findall(r"[0-9]+", os.path.splitext(name)[0])], name))
    images = [os.path.join(path, name) for name in names]
    header = _read_header(images[0])
    info = VideoInfo(
        path=str(path),
        num_frames=len(names),
        fps=fps,
        duration=len(names) / fps,
        width=header.width,
        height=header.height,
        codec=header.codec.name,
        container="folder",
        warnings=warnings,
        times=np.arange(len(names)) / fps,
    )
    return info, images


def decode_image(path: str) -> av.VideoFrame:
    """Decode one image; raise `VideoError` if it is not a JPEG or PNG, is damaged, or exceeds 8192 x 8192 pixels."""
    check_deadline()
    context, data = _open_decoder(path)
    with video_errors(path, _UNREADABLE):
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if len(frames) != 1 or frames[0].is_corrupt:
        raise VideoError(path, _UNREADABLE)
    return frames[0]


def _read_header(path: str) -> av.VideoCodecContext:
    """Return the decoder of an image, which knows the codec and the size."""
    context, data = _open_decoder(path)
    context.skip_frame = "ALL"
    with video_errors(path, _UNREADABLE):
        context.decode(av.Packet(data))
    if not context.width or not context.height:
        raise VideoError(path, "not a readable image")
    check_dimensions(path, context.width, context.height)
    return context


def _without_metadata(data: bytes) -> bytes:
    """A PNG without its texts and colour profile: a few bytes of them can expand to gigabytes, which FFmpeg keeps."""
    parts, start = [data[:_PNG_SIGNATURE_BYTES]], _PNG_SIGNATURE_BYTES
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])  # length, kind, contents, checksum
        if data[start + 4 : start + 8] not in _PNG_METADATA:
            parts.append(data[start:end])
        start = end
    return b"".join(parts)


def _is_one_picture(data: bytes) -> bool:
    """Whether a JPEG is segments and then the scans of one picture: of two joined by damage, FFmpeg decodes the last.

    A preview of the picture, with markers of its own, lies within a segment.
    """
    start = 2
    while data[start : start + 1] == b"\xff":
        marker = data[start + 1 : start + 2]
        if marker == b"\xda":  # the scans follow
            end = data.find(b"\xff\xd9", start)
            return end > 0 and not _JPEG_HEADER.search(data, start, end)
        filler = marker == b"\xff"
        start += 1 if filler else 2 + int.from_bytes(data[start + 2 : start + 4])
    return False


def _open_decoder(path: str) -> tuple[av.VideoCodecContext, bytes]:
    """Return a decoder and the bytes to give it: FFmpeg's image readers take a % in a file name for a pattern."""
    try:
        size = os.path.getsize(path)
        data = Path(path).read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise VideoError(path, f"not readable ({error_reason(error)})") from None
    if size == 0:
        raise VideoError(path, "the file is empty (0 bytes)")
    name = _DECODERS.get(data[:2])
    if name is None:
        raise VideoError(path, "not a JPEG or PNG image")
    if name == "png":
        data = _without_metadata(data)
    if name == "mjpeg" and b"\xff\xd9" not in data:  # without the end marker the decoder invents the last rows
        raise VideoError(path, "the image is cut short")
    if name == "mjpeg" and not _is_one_picture(data):
        raise VideoError(path, _UNREADABLE)
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = _OPTIONS
    return context, data
