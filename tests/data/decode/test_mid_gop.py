"""Recordings that start between two keyframes, as of broadcasts: the frames before the first one are no damage."""

import av
import numpy as np
import pytest

from helpers.barcode_videos import read_number, read_numbers, write_video
from xvit.data.decode import decode, probe
from xvit.data.decode.sequential import FrameReader
from xvit.data.tools.resize import resize_video

PACKET = 188  # bytes of a packet of an MPEG transport stream
TIME_BASE = 90_000


def _cut(path, kind, *, fraction, offset=0):
    """A recording of 60 frames, a keyframe every 12, that begins at a fraction of the file's bytes."""
    data = write_video(path.with_name("whole.ts"), frames=60, kind=kind).read_bytes()
    path.write_bytes(data[int(fraction * len(data)) // PACKET * PACKET + offset :])
    return path


def _decode_all(path) -> tuple[list[int], list[float]]:
    """The numbers and times of all frames that can be decoded, by PyAV alone."""
    frames = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames += packet.decode()
            except av.error.FFmpegError:
                continue
    numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in frames]
    return numbers, [(frame.pts - frames[0].pts) / TIME_BASE for frame in frames]


@pytest.mark.parametrize("kind", ["h264-ts", "h264-open-gop", "h264-pyramid", "hevc-mp4", "mpeg2-mpg"])
@pytest.mark.parametrize(("fraction", "offset"), [(0.1, 0), (0.1, 77), (0.3, 0)])
def test_frames_before_the_first_keyframe_are_left_out(tmp_path, kind, fraction, offset):
    path = _cut(tmp_path / "cut.ts", kind, fraction=fraction, offset=offset)
    numbers, times = _decode_all(path)
    assert 10 < len(numbers) < 60
    info = probe(path)
    assert (info.num_frames, info.damage) == (len(numbers), "")
    np.testing.assert_allclose(info.times, times, atol=1e-6)
    text = f"starts between keyframes: {info.num_leading} frames before the first one are left out"
    assert info.warnings == (text,)

    clip = decode(path, range(info.num_frames))
    assert read_numbers(clip.frames) == numbers
    assert (clip.num_damaged, clip.warnings) == (0, (text,))

    reader = FrameReader(path)
    chunks = list(reader)
    assert [number for _, frames in chunks for number in read_numbers(frames)] == numbers
    np.testing.assert_allclose(np.concatenate([chunk for chunk, _ in chunks]), times, atol=1e-6)
    assert (reader.damage, reader.warnings) == ("", (text,))

    resize_video(path, tmp_path / "small.mp4", short_side=64)
    assert read_numbers(decode(tmp_path / "small.mp4", range(len(numbers))).frames) == numbers


def test_a_first_keyframe_beyond_what_ffmpeg_probes(tmp_path):
    """FFmpeg looks for the first header in 5 MB or some seconds of a file only."""
    path = _cut(tmp_path / "cut.ts", "h264-one-keyframe", fraction=0.1)
    whole = path.with_name("whole.ts").read_bytes()
    path.write_bytes(path.read_bytes() * (6_000_000 // len(whole) + 1) + whole)
    info = probe(path)
    assert (info.num_frames, info.num_leading > 60) == (60, True)
    assert read_numbers(decode(path, [0, 59]).frames) == [0, 59]


def test_a_whole_recording_has_no_leading_frames(tmp_path):
    path = write_video(tmp_path / "whole.ts", kind="h264-ts")
    assert (probe(path).num_leading, probe(path).warnings) == (0, ())


def test_a_file_without_any_keyframe_is_refused_as_before(tmp_path):
    path = _cut(tmp_path / "cut.ts", "h264-one-keyframe", fraction=0.5)
    with pytest.raises(ValueError, match=r"cut\.ts: the file has no frames"):
        probe(path)


def test_commands_read_it_without_damage(tmp_path, run, checkpoint):
    path = _cut(tmp_path / "cut.ts", "h264-ts", fraction=0.1)
    code, out, err = run("predict", path, "--checkpoint", checkpoint)
    assert (code, err) == (0, "")
    assert "warning: starts between keyframes" in " ".join(out.split())
    code, out, err = run("timeline", path, "--checkpoint", checkpoint, "--stride", "1", "--json")
    assert code == 0
    assert '"damage": ""' in out


@pytest.mark.parametrize("kind", ["h264-ts", "hevc-mp4"])
def test_each_packet_is_a_frame_or_left_out(tmp_path, kind):
    path = _cut(tmp_path / "cut.ts", kind, fraction=0.1)
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    assert probe(path).num_leading + probe(path).num_frames == packets


def test_a_decoder_that_would_start_anywhere(tmp_path):
    """That of MPEG-4 shows garbage before the first keyframe."""
    path = _cut(tmp_path / "cut.ts", "mpeg4-mp4", fraction=0.1)
    assert read_numbers(decode(path, range(probe(path).num_frames)).frames) == list(range(12, 60))
