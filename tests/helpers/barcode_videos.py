"""Test videos in which every frame shows its own number as a barcode, so that a test can tell which frame it got."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from xvit.data.decode.sequential import FrameReader

BITS = 10


def barcode_frame(number: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """An image (height, width, 3), uint8: `number` in binary in the upper half, a moving texture in the lower half."""
    y, x = np.mgrid[:height, :width]
    bit = (number >> (x * BITS // width)) & 1
    texture = np.stack([(3 * x + 5 * number) % 200, (4 * y + 7 * number) % 200, (x + y + 3 * number) % 200], axis=-1)
    return np.where((y < height // 2)[..., None], (bit * 255)[..., None], texture).astype(np.uint8)


def read_number(image: np.ndarray) -> int:
    """Read the number in an image (height, width, 3) of `barcode_frame`, whatever its size."""
    height, width, _ = image.shape
    row = image[height // 8 : 3 * height // 8].mean(axis=(0, 2))
    return sum(int(row[int((bit + 0.5) * width / BITS)] > 127) << bit for bit in range(BITS))


def read_numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers in frames (T, H, W, C)."""
    return [read_number(frame) for frame in frames]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of video file: its codec, pixel format, encoder options and container options."""

    suffix: str
    codec: str
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)


_X264 = {"preset": "veryfast", "crf": "20", "mbtree": "0"}  # with mbtree, equal frames give different files at times
_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:keyint=12:bframes=3"}
FORMATS = {
    "h264-mp4": Format(suffix=".mp4", codec="libx264", options=_X264 | {"g": "12"}),
    "h264-one-keyframe": Format(suffix=".mp4", codec="libx264", options=_X264 | {"g": "1000", "bf": "3"}),
    "h264-pyramid": Format(
        suffix=".mp4", codec="libx264", options=_X264 | {"g": "20", "bf": "7", "b-pyramid": "normal", "refs": "4"}
    ),
    "h264-open-gop": Format(
        suffix=".mp4", codec="libx264", options=_X264 | {"g": "12", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}
    ),
    "h264-intra": Format(suffix=".mov", codec="libx264", options=_X264 | {"g": "1"}),
    "h264-faststart": Format(
        suffix=".mp4", codec="libx264", options=_X264 | {"g": "12"}, container={"movflags": "faststart"}
    ),
    "h264-fragmented": Format(
        suffix=".mp4",
        codec="libx264",
        options=_X264 | {"g": "12"},
        container={"movflags": "frag_keyframe+empty_moov"},
    ),
    "h264-mkv": Format(suffix=".mkv", codec="libx264", options=_X264 | {"g": "12", "bf": "3"}),
    "h264-ts": Format(suffix=".ts", codec="libx264", options=_X264 | {"g": "12", "bf": "2"}),
    "h264-avi": Format(suffix=".avi", codec="libx264", options=_X264 | {"g": "12", "bf": "2"}),
    "hevc-mp4": Format(suffix=".mp4", codec="libx265", options=_X265),
    "vp8-webm": Format(suffix=".webm", codec="libvpx", options={"g": "12", "deadline": "realtime", "b": "500k"}),
    "vp9-webm": Format(
        suffix=".webm",
        codec="libvpx-vp9",
        options={"g": "12", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "b": "500k"},
    ),
    "av1-mkv": Format(
        suffix=".mkv", codec="libsvtav1", options={"preset": "12", "g": "12", "svtav1-params": "lp=1:crf=30"}
    ),
    "mpeg4-avi": Format(suffix=".avi", codec="mpeg4", options={"g": "12", "bf": "2", "b": "1M"}),
    "mpeg4-mp4": Format(suffix=".mp4", codec="mpeg4", options={"g": "12", "bf": "2", "b": "1M"}),
    "mpeg2-mpg": Format(suffix=".mpg", codec="mpeg2video", options={"g": "12", "bf": "2", "b": "2M"}),
    "mjpeg-avi": Format(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "gif": Format(suffix=".gif", codec="gif", pix_fmt="rgb8"),
}


def write_video(
    path: Path | str,
    *,
    frames: int = 40,
    fps: int = 25,
    width: int = 96,
    height: int = 64,
    kind: str = "h264-mp4",
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    matrix: Sequence[int] | None = None,
    audio_seconds: float = 0.0,
) -> Path:
    """Write barcode frames 0 ... frames - 1; `pts` are their times in units of 1 / (4 fps) seconds."""
    video_format = FORMATS[kind]
    with _scheduling_kept(), av.open(str(path), "w", options=video_format.container) as container:
        stream = container.add_stream(video_format.codec, rate=fps, options=video_format.options)
        stream.width, stream.height, stream.pix_fmt = width, height, video_format.pix_fmt
        stream.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 4 * fps)
        if audio_seconds:
            audio = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(barcode_frame(number, width=width, height=height), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 4 * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio_seconds:
            _write_silence(container, audio, audio_seconds)
    return Path(path)


@contextmanager
def _scheduling_kept() -> Iterator[None]:
    """SVT-AV1 gives the thread that opens it the highest real-time priority, where it may: other processes starve."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    os.sched_setscheduler(0, policy, parameters)


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write an image (H, W, 3) or (H, W), uint8, as PNG (lossless) if `path` ends in .png, else as JPEG."""
    png = Path(path).suffix == ".png"
    context = av.CodecContext.create("png" if png else "mjpeg", "w")
    context.height, context.width = image.shape[:2]
    context.pix_fmt = ("rgb24" if image.ndim == 3 else "gray") if png else "yuvj444p"
    context.time_base = Fraction(1, 25)
    context.thread_count = 2  # decides the restart markers of a JPEG: not the number of cores
    context.options = {} if png else {"qmin": "2", "qmax": "2"}
    frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else "gray")
    frame = frame.reformat(format=context.pix_fmt, dst_color_range="JPEG")
    Path(path).write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))


def write_frames(
    folder: Path,
    *,
    frames: int = 20,
    name: str = "frame_{:010d}.jpg",
    first: int = 1,
    width: int = 96,
    height: int = 64,
) -> Path:
    """Write a folder of barcode frames 0 ... frames - 1, in files numbered from `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        write_image(folder / name.format(first + number), barcode_frame(number, width=width, height=height))
    return folder


def write_audio(path: Path | str, *, seconds: float = 1.0) -> Path:
    """Write a file that contains audio only."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return Path(path)


def write_edit_list(path: Path | str, source: Path | str, *, skip: int) -> Path:
    """Copy an mp4 so that an edit list hides its first `skip` frames, which stay in the file."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.dts is not None]
        times = sorted(packet.pts for packet in packets)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - times[skip], packet.dts - times[skip]
            packet.stream = copy
            new.mux(packet)
    return Path(path)


def write_display_matrix(path: Path | str, source: Path | str, matrix: Sequence[float]) -> Path:
    """Copy an mp4 and give its only track the display matrix (a, b, c, d): x' = a x + c y, y' = b x + d y."""
    data = bytearray(Path(source).read_bytes())
    header = data.index(b"tkhd")
    start = header + (56 if data[header + 4] == 1 else 44)  # version 1 has times of 8 bytes
    a, b, c, d = (round(value * 2**16) for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    Path(path).write_bytes(data)
    return Path(path)


def damage_frame(path: Path | str, source: Path | str, number: int) -> Path:
    """Copy a video, and change bytes of one frame so that its decoder decodes the frame, but flags it as damaged."""
    data = bytearray(Path(source).read_bytes())
    with av.open(str(source)) as container:
        packets = sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)
    start, size = packets[number].pos, packets[number].size
    data[start + size // 2 : start + size] = (byte ^ 0x5A for byte in data[start + size // 2 : start + size])
    Path(path).write_bytes(data)
    return Path(path)


def truncate(path: Path | str, source: Path | str, *, fraction: float) -> Path:
    """Copy the first `fraction` of a file's bytes."""
    data = Path(source).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * fraction)])
    return Path(path)


def corrupt(path: Path | str, source: Path | str, *, seed: int = 0) -> Path:
    """Copy a file, and replace the bytes from 2/5 to 3/5 of its length by noise."""
    data = bytearray(Path(source).read_bytes())
    low, high = 2 * len(data) // 5, 3 * len(data) // 5
    data[low:high] = np.random.default_rng(seed).bytes(high - low)
    Path(path).write_bytes(data)
    return Path(path)


def _write_silence(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    silence = np.zeros((1, 1024), dtype=np.float32)
    for start in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read_in_order(path: Path, **options) -> tuple[np.ndarray, list[int], FrameReader]:
    """The times and the barcode numbers that a `FrameReader` yields."""
    reader = FrameReader(path, **options)
    chunks = list(reader)
    numbers = [number for _, frames in chunks for number in read_numbers(frames)]
    return np.concatenate([times for times, _ in chunks]), numbers, reader
