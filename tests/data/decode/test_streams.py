"""Which of several video streams is read: what ffmpeg picks, and never a still picture beside a video."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import av
import pytest
from av.stream import Disposition

from helpers.barcode_videos import barcode_frame, read_numbers
from helpers.live_sources import collect, frame_numbers, http_server, send, standard_input
from xvit.data.capture.source import Source
from xvit.data.decode import decode, probe
from xvit.data.decode.streams import best_stream, video_streams
from xvit.data.tools.resize import resize_video
from xvit.utils.errors import VideoError

FRAMES = 30


class Track(NamedTuple):
    """A stream to write; its barcodes start at its width."""

    width: int
    height: int
    frames: int = FRAMES
    codec: str = "libx264"
    disposition: Disposition | None = None


NONE, DEFAULT = Disposition(0), Disposition.default
VIDEO, LARGE = Track(96, 64), Track(192, 128)
STILL = Track(160, 120, frames=1, codec="mjpeg")
CONTAINERS = ("mp4", "mov", "mkv", "avi", "ts", "nut")
KEEPS_DISPOSITIONS = ("mp4", "mov", "mkv")
CASES = {  # tracks, width of the one to read, containers
    "thumbnail first": ([STILL, VIDEO], 96, CONTAINERS),
    "thumbnail second": ([VIDEO, STILL], 96, CONTAINERS),
    "default thumbnail": ([STILL._replace(disposition=DEFAULT), VIDEO._replace(disposition=NONE)], 96, CONTAINERS),
    "one frame of video first": ([LARGE._replace(frames=1), VIDEO], 96, CONTAINERS),
    "one frame of video second": ([VIDEO, LARGE._replace(frames=1)], 96, CONTAINERS),
    "cover image": ([STILL._replace(disposition=Disposition.attached_pic), VIDEO], 96, ("mp4",)),
    "default second": ([VIDEO._replace(disposition=NONE), LARGE._replace(disposition=DEFAULT)], 192, CONTAINERS),
    "default is small": (
        [LARGE._replace(disposition=NONE), VIDEO._replace(disposition=DEFAULT)],
        96,
        KEEPS_DISPOSITIONS,
    ),
    "preview first": ([VIDEO, LARGE], 192, ("mkv", "avi", "ts", "nut")),  # mp4 marks the first track as the default
    "preview second": ([LARGE, VIDEO], 192, CONTAINERS),
    "equal": ([VIDEO, VIDEO._replace(height=72), VIDEO._replace(height=72)], 96, ("mkv", "ts")),
    "short previews": ([VIDEO._replace(frames=2), LARGE, VIDEO._replace(frames=3)], 192, ("mkv", "avi", "ts", "nut")),
}


def write_tracks(path: Path, tracks: list[Track]) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for track in tracks:
            stream = container.add_stream(track.codec, rate=25, options={"bf": "0"})
            stream.width, stream.height = track.width, track.height
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            stream.thread_count = 1
            if track.disposition is not None:
                stream.disposition = track.disposition
            streams.append(stream)
        for number in range(max(track.frames for track in tracks)):
            for track, stream in zip(tracks, streams, strict=True):
                if number < track.frames:
                    image = barcode_frame(track.width + number, width=track.width, height=track.height)
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                    container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("case", "suffix"), [(case, suffix) for case, (_, _, containers) in CASES.items() for suffix in containers]
)
def test_the_best_stream_of_a_file_is_read(case, suffix, tmp_path):
    tracks, width, _ = CASES[case]
    path = write_tracks(tmp_path / f"video.{suffix}", tracks)
    info = probe(path)
    assert (info.width, info.num_frames) == (width, FRAMES)
    clip = decode(path, [0, 13, FRAMES - 1])
    assert read_numbers(clip.frames) == [width, width + 13, width + FRAMES - 1]
    if case == "equal":
        assert info.height == 72  # the first of the two larger ones


@pytest.mark.parametrize(
    ("streams", "best"),
    [
        ([(0, None, 192), (0, 25, 96)], 1),  # nothing is known of the first but that it states no rate
        ([(0, 25, 96), (0, 25, 192)], 1),
        ([(1, 25, 192), (0, 25, 96)], 1),
        ([(30, 25, 96), (2, 25, 192)], 1),  # two frames are a video
        ([(2, None, 96), (1, 25, 192)], 0),
        ([(30, 25, 96), (30, 25, 96)], 0),
        ([(30, 25, 192, "mjpeg"), (30, 25, 96)], 1),
    ],
)
def test_a_stream_with_more_than_one_frame_is_better(streams, best):
    """Streams by their number of frames, 0 if it is unknown, their rate, their width and their codec."""
    stand_ins = [
        SimpleNamespace(
            index=5 - place,
            average_rate=rate,
            disposition=NONE,
            codec_context=SimpleNamespace(
                codec=SimpleNamespace(canonical_name=codec[0] if codec else "h264"), width=width, height=64
            ),
        )
        for place, (_, rate, width, *codec) in enumerate(streams)
    ]
    num_frames = {5 - place: count for place, (count, *_) in enumerate(streams)}
    assert best_stream(stand_ins, num_frames) is stand_ins[best]


def test_resizing_and_streaming_read_the_same_stream(tmp_path):
    path = write_tracks(tmp_path / "video.mp4", CASES["default thumbnail"][0])
    frames, _ = collect(Source(path))
    assert frame_numbers(frames) == list(range(96, 96 + FRAMES))
    resize_video(path, tmp_path / "resized.mp4", short_side=64)
    assert read_numbers(decode(tmp_path / "resized.mp4", [0, 9]).frames) == [96, 105]


@pytest.mark.parametrize("suffix", ["mkv", "ts", "nut"])
@pytest.mark.parametrize("case", ["thumbnail first", "thumbnail second", "default second", "preview first"])
def test_the_best_stream_of_an_address_and_of_a_pipe_is_read(case, suffix, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    tracks, width, _ = CASES[case]
    data = write_tracks(tmp_path / f"video.{suffix}", tracks).read_bytes()
    with http_server(send(data)) as address:
        frames, _ = collect(Source(address))
    assert frame_numbers(frames) == list(range(width, width + FRAMES))
    with standard_input(monkeypatch, data):
        frames, _ = collect(Source("-"))
    assert frame_numbers(frames) == list(range(width, width + FRAMES))


def test_a_cover_image_alone_is_no_video(tmp_path):
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(barcode_frame(1), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(cover.encode(frame))
    with pytest.raises(VideoError, match=r"cover\.mp4: the file has no video stream$"):
        decode(path, [0])


UNDECODABLE = SimpleNamespace(disposition=NONE, codec_context=None)


@pytest.mark.parametrize(
    ("videos", "audio", "message"),
    [
        ([], [], "a.mp4: the file has no video stream"),
        ([], [None], "a.mp4: the file has no video stream, only audio"),
        ([UNDECODABLE], [None], "a.mp4: no decoder is available for its video, or its header is damaged"),
    ],
)
def test_a_file_without_a_video_that_can_be_decoded(videos, audio, message):
    with pytest.raises(VideoError) as error:
        video_streams("a.mp4", SimpleNamespace(streams=SimpleNamespace(video=videos, audio=audio)))
    assert str(error.value) == message
