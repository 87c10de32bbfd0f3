"""Frames that are lost in a damaged file: those after them keep their own times, and marked packets are reported."""

import logging
import math
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.barcode_videos import FORMATS, read_numbers, write_video
from xvit.data.decode import read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.data.tools.resize import resize_video
from xvit.utils.errors import VideoError

FPS = 25
TS_PACKET = 188  # bytes


def packet_bytes(path: Path, number: int) -> slice:
    """Where the frame of this number lies in a file, with the headers of its container."""
    with av.open(str(path)) as container:
        packets = sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)
    return slice(packets[number].pos, packets[number].pos + packets[number].size)


def blank_packet(path: Path, source: Path, number: int, *, header: int) -> Path:
    """Copy a file, with zeros for what a packet holds after its header: no decoder finds a frame in it."""
    data, place = bytearray(source.read_bytes()), packet_bytes(source, number)
    data[place.start + header : place.stop] = bytes(place.stop - place.start - header)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("number", [10, 18])  # no other frame refers to these
@pytest.mark.parametrize("requested", [range(30), [0, 12, 25, 30]], ids=["all", "some"])
def test_frames_after_a_lost_one_keep_their_times(number, requested, tmp_path):
    """Packets without a frame: the times must be those of the frames, not those of the packets of the same index."""
    intact = write_video(tmp_path / "intact.ts", kind="h264-ts")
    path = blank_packet(tmp_path / "lost.ts", intact, number, header=24)
    clip = read_clip(path, lambda info: requested)
    numbers, times = read_numbers(clip.frames), np.round(clip.times * FPS).astype(int).tolist()
    assert number not in numbers
    assert numbers == times
    assert numbers[0] == 0
    assert max(numbers) > max(requested)  # shifted by the lost frame
    assert clip.info.num_frames == len(clip.info.times) < 40


@pytest.mark.parametrize("kind", FORMATS)
def test_intact_files_are_decoded_once(kind, tmp_path, monkeypatch):
    """Frames and packets have the same times, so that nothing seems lost."""
    from xvit.data.decode import video

    calls, decode_in_order = [], video.decode_in_order
    monkeypatch.setattr(video, "decode_in_order", lambda *args: calls.append(args) or decode_in_order(*args))
    path = write_video(tmp_path / f"video{FORMATS[kind].suffix}", kind=kind, frames=24)
    clip = read_clip(path, lambda info: [0, 9, 20])
    assert read_numbers(clip.frames) == [0, 9, 20]
    assert clip.warnings == ()
    assert len(calls) <= 1


@pytest.fixture
def interrupted(tmp_path) -> Path:
    """A transport stream that lacks packets of its middle: FFmpeg marks the packet that is cut, decoders may not."""
    intact = write_video(tmp_path / "intact.ts", kind="h264-ts")
    data = intact.read_bytes()
    start = packet_bytes(intact, 28).start // TS_PACKET * TS_PACKET
    path = tmp_path / "interrupted.ts"
    path.write_bytes(data[: start + TS_PACKET] + data[start + 4 * TS_PACKET :])
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    return path


def test_a_marked_packet_is_damage_to_the_frames_that_depend_on_it(interrupted):
    clip = read_clip(interrupted, lambda info: [0, 30], strict=False)
    assert clip.num_damaged >= 1
    assert any("damaged" in warning for warning in clip.warnings)
    assert read_clip(interrupted, lambda info: [0, 20]).warnings == ()  # before the gap, all is well


def test_a_marked_packet_is_reported_by_the_sequential_reader(interrupted):
    reader = FrameReader(interrupted)
    assert sum(len(times) for times, _ in reader) > 30
    assert "damaged packets or frames" in reader.damage


def test_joined_recordings_are_not_damaged(tmp_path):
    """FFmpeg marks the packet before the second recording, although nothing is missing."""
    recording = write_video(tmp_path / "recording.ts", kind="h264-ts")
    path = tmp_path / "joined.ts"
    path.write_bytes(2 * recording.read_bytes())
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    reader = FrameReader(path)
    assert sum(len(times) for times, _ in reader) == 80
    assert reader.damage == ""
    clip = read_clip(path, lambda info: [0, 39, 40, 79])
    assert read_numbers(clip.frames) == [0, 39, 0, 39]
    assert clip.warnings == ()


def test_times_and_numbers_agree_whatever_is_cut_out(tmp_path):
    """Whichever packets of a stream are lost: a frame is at its own time, or the clip has a warning."""
    intact = write_video(tmp_path / "intact.ts", kind="h264-ts")
    data, rng = intact.read_bytes(), np.random.default_rng(0)
    judged = 0
    for _ in range(30):
        start = int(rng.integers(len(data) // TS_PACKET // 4, len(data) // TS_PACKET)) * TS_PACKET
        path = tmp_path / "cut.ts"
        path.write_bytes(data[:start] + data[start + int(rng.integers(1, 9)) * TS_PACKET :])
        clip = read_clip(path, lambda info: [0, *rng.integers(info.num_frames, size=4)], strict=False)
        numbers = read_numbers(clip.frames)
        if not clip.warnings and max(numbers) < 40:
            judged += 1
            assert all(math.isclose(n, t * FPS, abs_tol=0.5) for n, t in zip(numbers, clip.times, strict=True)), start
    assert judged >= 5


def test_a_damaged_jpeg_does_not_show_an_older_frame(tmp_path):
    intact = write_video(tmp_path / "intact.avi", kind="mjpeg-avi")
    with av.open(str(intact)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data, jpeg = intact.read_bytes(), packets[29]
    start = data.index(jpeg)
    header = jpeg.index(b"\xff\xc0")  # of the frame: now of a kind that FFmpeg does not know
    path = tmp_path / "damaged.avi"
    path.write_bytes(data[: start + header + 1] + b"\xc5" + data[start + header + 2 :])
    with pytest.raises(VideoError, match="damaged after frame 29"):
        read_clip(path, lambda info: [0, 9, 29])
    assert read_numbers(read_clip(path, lambda info: [0, 9, 28]).frames) == [0, 9, 28]
    assert read_clip(path, lambda info: [0, 9, 29], strict=False).warnings == ("1 damaged frame",)
    reader = FrameReader(path)
    assert sum(len(times) for times, _ in reader) == 39
    assert reader.damage == "1 damaged packets or frames"


def test_a_marked_packet_that_the_decoder_does_not_flag(tmp_path):
    data = write_video(tmp_path / "intact.ts", kind="h264-ts").read_bytes()
    path, seen = tmp_path / "cut.ts", 0
    for start in range(30, 60, 2):
        path.write_bytes(data[: start * TS_PACKET] + data[(start + 1) * TS_PACKET :])
        with av.open(str(path)) as container:
            flagged = any(frame.is_corrupt for frame in container.decode(video=0))
        with av.open(str(path)) as container:
            marked = any(packet.is_corrupt for packet in container.demux(video=0))
        if marked and not flagged:
            seen += 1
            assert read_clip(path, lambda info: range(info.num_frames), strict=False).num_damaged
    assert seen


@pytest.mark.parametrize(("kind", "header"), [("h264-ts", 24), ("mpeg4-avi", 5)])
def test_a_resized_copy_keeps_the_times_of_frames_after_a_lost_one(kind, header, tmp_path):
    intact = write_video(tmp_path / f"intact{FORMATS[kind].suffix}", kind=kind)
    path = blank_packet(tmp_path / f"lost{intact.suffix}", intact, 10, header=header)
    resize_video(path, tmp_path / "copy.mp4", short_side=256)
    clip = read_clip(tmp_path / "copy.mp4", lambda info: range(info.num_frames))
    numbers = read_numbers(clip.frames)
    assert 10 not in numbers
    assert numbers == np.round(clip.times * FPS).astype(int).tolist()
    assert len(numbers) == clip.info.num_frames > 30


def test_a_marked_packet_is_reported_when_a_copy_is_made(interrupted, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="xvit"):
        resize_video(interrupted, tmp_path / "copy.mp4", short_side=32)
    assert caplog.messages[-1] == f"{interrupted}: damaged frames: 2"  # one flagged by the decoder, one marked
