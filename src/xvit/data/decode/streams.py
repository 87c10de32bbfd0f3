"""Choose the video stream of a file or a live source: the one that ffmpeg picks, but never a still picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition

from xvit.utils.errors import VideoError

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_IMAGE_CODECS = {"bmp", "mjpeg", "png", "tiff", "webp"}


def video_streams(path: str | Path, container: InputContainer) -> list[av.VideoStream]:
    """Return the streams that can be decoded, without cover images; raise `VideoError` if there are none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if not streams:
        raise VideoError(path, "the file has no video stream" + (", only audio" if container.streams.audio else ""))
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "no decoder is available for its video, or its header is damaged")
    return streams


def best_stream(streams: Sequence[av.VideoStream], num_frames: Mapping[int, int]) -> av.VideoStream:
    """Return the stream with more than one frame, then the default one, then the one with the largest frames.

    Args:
        streams: at least one; of equal ones the first is returned.
        num_frames: frames by stream index, 0 where that is unknown; it only matters whether they are more than one.
    """

    def rank(stream: av.VideoStream) -> tuple[bool, bool, bool, int]:
        context, count = stream.codec_context, num_frames[stream.index]
        return (
            count > 1 if count else bool(stream.average_rate),  # from the first frames
            bool(stream.disposition & Disposition.default),
            context.codec.canonical_name not in _IMAGE_CODECS,
            context.width * context.height,
        )

    return max(streams, key=rank)
