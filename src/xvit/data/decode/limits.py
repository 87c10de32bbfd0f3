"""How large the frames of a video or picture may be. A file of a few bytes can announce gigabytes."""

from pathlib import Path

import av

from xvit.utils.errors import VideoError

MAX_PIXELS = 2**26  # of a frame: 8192 x 8192
MAX_ASPECT_RATIO = 32  # resizing the short side of a frame of 2 x 60000 pixels would take gigabytes
# For decoders, and for FFmpeg's functions that decode a first frame to recognise a stream.
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
# Without it, the missing part of a damaged JPEG is filled from an older frame, and the decoder does not flag it.
_CODEC_OPTIONS = {"mjpeg": {"err_detect": "explode"}}


def check_dimensions(path: str | Path, width: int, height: int) -> None:
    """Raise `VideoError` if frames of this size are too large, or too elongated to be resized."""
    if width * height > MAX_PIXELS:
        raise VideoError(path, f"frames of {width}x{height} pixels: expected at most {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise VideoError(path, f"frames of {width}x{height} pixels: the aspect ratio is above {MAX_ASPECT_RATIO}")


def prepare_decoder(path: str | Path, stream: av.VideoStream) -> None:
    """Limit the decoder of a stream, before it decodes anything. Its first frame may show the size that is unknown yet.

    Raises:
        VideoError: its frames are too large or too elongated.
    """
    context = stream.codec_context
    if context.width and context.height:
        check_dimensions(path, context.width, context.height)
    context.options = DECODER_OPTIONS | _CODEC_OPTIONS.get(context.codec.canonical_name, {})
    context.thread_count = 1  # more threads cost a third of the throughput of several workers
