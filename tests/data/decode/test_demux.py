"""Tests of opening and scanning video files: counts, frame times, truncated, bad and special files."""

import pickle
import socket
from pathlib import Path

import numpy as np
import pytest

from helpers.barcode_videos import FORMATS, read_numbers, truncate, write_audio, write_edit_list, write_video
from xvit.data.decode import decode, probe
from xvit.data.decode.demux import video_errors
from xvit.utils.errors import VideoError

FRAMES = 60


@pytest.mark.parametrize("kind", FORMATS)
def test_probe_counts_frames(kind, make_video):
    info = probe(make_video(kind))
    assert (info.num_frames, info.width, info.height, info.damage) == (FRAMES, 96, 64, "")
    assert info.fps == pytest.approx(25, rel=0.01)
    assert info.duration == pytest.approx(FRAMES / 25, rel=0.01)
    assert info.times.shape == (FRAMES,)


def test_uneven_times_come_from_the_timestamps(folder):
    pts = np.cumsum(1 + np.arange(20) % 7).tolist()  # in hundredths of a second
    clip = decode(write_video(folder / "uneven.mp4", frames=20, pts=pts), [0, 5, 19])
    assert read_numbers(clip.frames) == [0, 5, 19]
    np.testing.assert_allclose(clip.times, [(pts[i] - pts[0]) / 100 for i in (0, 5, 19)], atol=1e-3)


def test_an_edit_list_hides_frames(make_video, folder):
    path = write_edit_list(folder / "edited.mp4", make_video(), skip=17)
    assert probe(path).num_frames == FRAMES - 17
    for indices in ([0], [3, 20], [FRAMES - 18], [1000]):
        clip = decode(path, indices)
        assert read_numbers(clip.frames) == [17 + min(index, FRAMES - 18) for index in indices]


def test_errors_of_pyav_become_video_errors():
    for error in (
        IndexError("list index out of range"),
        ZeroDivisionError(),
        UnicodeDecodeError("utf-8", b"", 0, 1, ""),
    ):
        with pytest.raises(VideoError, match=r"a\.mp4: unreadable"), video_errors("a.mp4", "unreadable"):
            raise error


def test_an_mkv_with_longer_audio_is_complete(folder):
    path = write_video(folder / "longaudio.mkv", frames=20, kind="h264-mkv", audio_seconds=4)
    assert probe(path).damage == ""


def bad_files(folder: Path, good: Path) -> dict[str, Path]:
    data = good.read_bytes()
    (folder / "folder.mp4").mkdir(exist_ok=True)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 400)
    (folder / "text.ans").write_text("no video\n" * 400)
    (folder / "script.mp4").write_text(f"ffconcat version 1.0\nfile {good.name}\n")
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{good.name}\n#EXT-X-ENDLIST\n")
    (folder / "halfindex.mp4").write_bytes(data[: data.rindex(b"stsd")])  # ends before the box that names the codec
    return {
        "missing": folder / "missing.mp4",
        "folder": folder / "folder.mp4",
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "terminal": folder / "text.ans",
        "script": folder / "script.mp4",
        "playlist": folder / "list.mp4",
        "audio": write_audio(folder / "audio.mp4"),
        "no index": truncate(folder / "noindex.mp4", good, fraction=0.5),
        "half an index": folder / "halfindex.mp4",
    }


MESSAGES = {
    "missing": "no such file",
    "folder": "a folder without videos or frame images",
    "empty": r"the file is empty \(0 bytes\)",
    "text": "not a readable video file, or cut short",
    "terminal": "not a readable video file, or cut short",
    "script": "a concat script of FFmpeg, which refers to other files",
    "playlist": "an HLS playlist, which refers to other files",
    "audio": "the file has no video stream, only audio",
    "no index": "not a readable video file, or cut short",
    "half an index": "no decoder is available for its video, or its header is damaged",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_file_is_an_error_of_one_line(name, make_video, folder):
    path = bad_files(folder, make_video())[name]
    for read in (probe, lambda path: decode(path, [0]), lambda path: decode(path, [0], strict=False)):
        with pytest.raises(VideoError, match=MESSAGES[name]) as caught:
            read(path)
        error = pickle.loads(pickle.dumps(caught.value))
        assert error.path == str(path)
        assert "\n" not in str(error)


def test_special_files_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        with pytest.raises(VideoError, match="not a regular file"):
            probe("socket.mp4")


@pytest.mark.parametrize("kind", ["h264-faststart", "h264-fragmented", "h264-mkv", "vp9-webm", "h264-avi"])
def test_a_truncated_file_is_detected(kind, make_video, folder):
    path = truncate(folder / f"cut{FORMATS[kind].suffix}", make_video(kind), fraction=0.6)
    info = probe(path)
    assert info.damage.startswith("cut short: ")
    assert 20 < info.num_frames < 50
    with pytest.raises(VideoError, match=r"cut short: \d.* are present"):
        decode(path, [0])
    clip = decode(path, [0, 5, 10, 1000], strict=False)
    assert read_numbers(clip.frames)[:3] == [0, 5, 10]
    assert clip.num_repeated == 1


def test_an_elongated_frame_is_an_error(folder):
    path = write_video(folder / "elongated.mp4", frames=2, width=1056, height=32)
    with pytest.raises(VideoError, match="1056x32"):
        probe(path)
