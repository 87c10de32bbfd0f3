"""Tests of the limit of pixels per frame: the same one for videos, animations, folders of frames and live sources."""

import struct

import numpy as np
import pytest

from helpers.barcode_videos import write_frames, write_video
from helpers.faulty_av import FaultyAV
from helpers.live_sources import collect, standard_input
from xvit.data.annotations import Sample
from xvit.data.capture.source import Source
from xvit.data.decode import demux, limits, probe, read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.data.synthetic.dataset import encode_video
from xvit.data.tools.check import check_file
from xvit.data.tools.resize import resize_video
from xvit.utils.errors import VideoError

READERS = {
    "probe": probe,
    "clip": lambda path: read_clip(path, lambda info: [0]),
    "in order": lambda path: list(FrameReader(path)),
    "resize": lambda path: resize_video(path, path.with_name("small.mp4"), short_side=32),
    "stream": lambda path: collect(Source(path)),
}


def write_gif(path, width, height, frames=3):
    """A GIF of a few bytes: frames of one pixel on a canvas of any size."""
    image = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(b"GIF89a" + screen + image * frames + b"\x3b")
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("width", "height"), [(16000, 16000), (8193, 8192), (65535, 65535)])
def test_a_small_file_of_large_frames_is_refused_before_decoding(width, height, reader, tmp_path, monkeypatch):
    path = write_gif(tmp_path / "a.gif", width, height)
    counter = FaultyAV()
    counter.install(monkeypatch)
    with pytest.raises(VideoError, match="67,108,864 pixels"):
        READERS[reader](path)
    assert counter.calls["Packet.decode"] == 0
    assert check_file([Sample(path=str(path), label=None, id="a")]).kind == "unreadable"


@pytest.mark.parametrize("kind", ["h264-mp4", "vp8-webm", "mpeg2-mpg", "mjpeg-avi", "gif"])
@pytest.mark.parametrize("reader", READERS)
def test_the_limit_holds_for_every_container(kind, reader, tmp_path, monkeypatch):
    path = write_video(tmp_path / f"a{'.gif' if kind == 'gif' else '.mkv'}", frames=3, kind=kind)
    READERS[reader](path)
    monkeypatch.setattr(limits, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match="96x64 pixels: expected at most 6,143 pixels"):
        READERS[reader](path)


def test_raw_frames_have_the_same_limit(monkeypatch):
    Source("-", raw="8192x8192@25")
    with pytest.raises(VideoError, match="99999x99999 pixels: expected at most"):
        Source("-", raw="99999x99999@25")


def test_an_animation_through_a_pipe_is_not_decoded(tmp_path, monkeypatch):
    data = write_gif(tmp_path / "a.gif", 16000, 16000).read_bytes()
    with (
        standard_input(monkeypatch, data),
        pytest.raises(VideoError, match="no frames could be read, 3 damaged"),
    ):
        collect(Source("-"))


@pytest.mark.parametrize("reader", ["clip", "in order", "resize"])
def test_a_first_frame_of_another_size_than_the_headers_say_is_checked(reader, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", frames=2, width=320, height=64)
    monkeypatch.setattr(limits, "prepare_decoder", lambda path, stream: None)
    monkeypatch.setattr("xvit.data.decode.demux.prepare_decoder", lambda path, stream: None)  # believe the headers
    monkeypatch.setattr(limits, "MAX_ASPECT_RATIO", 4)
    with pytest.raises(VideoError, match="320x64 pixels: the aspect ratio is above 4"):
        READERS[reader](path)


def test_pictures_have_the_same_limit(tmp_path, monkeypatch):
    folder = write_frames(tmp_path / "v", frames=2, width=96)
    probe(folder)
    monkeypatch.setattr(limits, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match="96x64 pixels: expected at most 6,143 pixels"):
        probe(folder)


def test_reading_stops_at_the_greatest_number_of_frames(tmp_path, monkeypatch):
    path, read = tmp_path / "video.mp4", []
    encode_video(np.zeros((60, 16, 16, 3), np.uint8), path, fps=30.0)
    assert demux.probe_file(path, max_frames=60).num_frames == 60
    original = demux.read_packets

    def read_packets(*args):
        for packet in original(*args):
            read.append(packet)
            yield packet

    monkeypatch.setattr(demux, "read_packets", read_packets)
    with pytest.raises(VideoError, match="more than 5 frames"):
        demux.probe_file(path, max_frames=5)
    assert len(read) == 6
