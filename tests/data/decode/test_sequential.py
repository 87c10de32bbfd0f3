"""Tests of the sequential reader: its frames and times, truncated and damaged files."""

import numpy as np
import pytest

from helpers.barcode_videos import FORMATS, corrupt, read_numbers, truncate, write_video
from xvit.data.decode import decode
from xvit.data.decode.sequential import FrameReader
from xvit.utils.errors import VideoError, XViTError

KINDS = [
    *("h264-mp4", "h264-open-gop", "h264-fragmented", "h264-mkv", "h264-ts", "h264-avi"),
    *("vp9-webm", "mpeg4-avi", "mpeg2-mpg", "mjpeg-avi", "gif"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_come_in_order_with_their_times(kind, tmp_path):
    path = write_video(tmp_path / f"video{FORMATS[kind].suffix}", frames=40, kind=kind)
    for stride in (1, 3):
        reader = FrameReader(path, stride=stride)
        chunks = list(reader)
        clip = decode(path, range(0, 40, stride))
        assert [len(times) for times, _ in chunks[:-1]] == [8] * (len(chunks) - 1)
        assert np.array_equal(np.concatenate([frames for _, frames in chunks]), clip.frames)
        np.testing.assert_allclose(np.concatenate([times for times, _ in chunks]), clip.times, atol=1e-3)
        assert (reader.num_decoded, reader.damage) == (40, "")
        assert reader.end_time == pytest.approx(reader.info.duration, abs=1e-3)


def test_uneven_times_come_from_the_timestamps(tmp_path):
    pts = np.cumsum([0, *np.random.default_rng(0).integers(1, 20, size=19)]).tolist()
    reader = FrameReader(write_video(tmp_path / "video.mkv", frames=20, pts=pts, kind="h264-mkv"))
    times = np.concatenate([times for times, _ in reader])
    np.testing.assert_allclose(times, np.array(pts) / 100, atol=2e-3)  # Matroska counts milliseconds


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("mjpeg-avi", [4] * 39),
        ("mjpeg-avi", np.random.default_rng(1).integers(1, 20, size=39)),
        ("mpeg4-avi", [12] * 39),
        ("h264-avi", [12] * 39),
    ],
    ids=["all frames", "varying", "every third", "every third, reordered"],
)
def test_repeated_frames_of_avi_take_their_time(kind, steps, tmp_path):
    times = np.cumsum([0, *steps]) / 100  # AVI has an empty packet for each frame that is repeated
    path = write_video(tmp_path / "video.avi", frames=40, pts=(100 * times).round().astype(int).tolist(), kind=kind)
    reader = FrameReader(path)
    np.testing.assert_allclose(np.concatenate([chunk for chunk, _ in reader]), times, atol=1e-6)
    np.testing.assert_allclose(reader.info.times, times, atol=1e-6)
    assert (reader.info.num_frames, reader.damage) == (40, "")
    cut = FrameReader(truncate(tmp_path / "cut.avi", path, fraction=0.6))
    assert "cut short" in cut.damage
    np.testing.assert_allclose(cut.info.times, times[: cut.info.num_frames], atol=1e-6)


@pytest.mark.parametrize("kind", ["h264-faststart", "h264-mkv", "mjpeg-avi"])
def test_a_truncated_file_yields_the_frames_it_has(kind, tmp_path):
    complete = write_video(tmp_path / f"complete{FORMATS[kind].suffix}", frames=200, kind=kind)
    reader = FrameReader(truncate(tmp_path / f"half{FORMATS[kind].suffix}", complete, fraction=0.5))
    numbers = [number for _, frames in reader for number in read_numbers(frames)]
    assert numbers[:60] == list(range(60))
    assert len(numbers) < 150
    assert "cut short" in reader.damage


def test_frames_after_damage_keep_their_times(tmp_path):
    for kind, detected in (("h264-mkv", False), ("h264-mp4", True)):  # in mkv the noise hides whole packets
        suffix = FORMATS[kind].suffix
        intact = write_video(tmp_path / f"intact{suffix}", frames=200, kind=kind)
        reader = FrameReader(corrupt(tmp_path / f"holes{suffix}", intact))
        chunks = list(reader)
        assert read_numbers(chunks[-1][1])[-1] == 199
        assert chunks[-1][0][-1] == pytest.approx(199 / 25, abs=0.01)
        assert bool(reader.damage) == detected


def test_invalid_files_and_strides(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(VideoError, match=name):
            FrameReader(tmp_path / name)
    with pytest.raises(XViTError, match="stride=0"):
        FrameReader(tmp_path / "text.mp4", stride=0)
