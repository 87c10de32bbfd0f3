"""Resizing videos: the same frames at the same times, no partial files, originals unchanged."""

import os
import shutil

import av
import numpy as np
import pytest

from helpers.barcode_videos import FORMATS, barcode_frame, read_numbers, truncate, write_frames, write_video
from helpers.files import limited_file_size, locked_by_another_process
from xvit.data.decode import decode, probe
from xvit.data.tools import resize
from xvit.data.tools.resize import resize_video, resize_videos
from xvit.utils.errors import VideoError, WriteError, XViTError


@pytest.mark.parametrize("kind", ["h264-mp4", "h264-pyramid", "h264-avi", "hevc-mp4", "vp9-webm", "mpeg2-mpg", "gif"])
def test_the_same_frames_at_the_same_times(kind, tmp_path):
    source = write_video(tmp_path / f"a{FORMATS[kind].suffix}", kind=kind, frames=30, width=160, height=120)
    resize_video(source, tmp_path / "out/b.mp4", short_side=60)
    old, new = probe(source), probe(tmp_path / "out/b.mp4")
    assert (new.width, new.height, new.codec, new.num_frames) == (80, 60, "h264", 30)
    assert np.allclose(new.times, old.times, atol=1e-4)
    assert read_numbers(decode(tmp_path / "out/b.mp4", range(30)).frames) == list(range(30))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.mp4"]


def test_irregular_times_are_kept(tmp_path):
    source = write_video(tmp_path / "a.mp4", frames=6, pts=[0, 4, 9, 20, 21, 30])
    resize_video(source, tmp_path / "b.mp4", short_side=48)
    assert np.allclose(probe(tmp_path / "b.mp4").times, [0, 0.04, 0.09, 0.2, 0.21, 0.3], atol=1e-4)


@pytest.mark.parametrize("fps", [10, 29.97, 50])
def test_a_new_frame_rate_takes_the_frames_on_display(fps, tmp_path):
    source = write_video(tmp_path / "a.mp4", frames=40)  # 25 frames per second
    resize_video(source, tmp_path / "b.mp4", short_side=64, fps=fps)
    info = probe(tmp_path / "b.mp4")
    assert info.fps == pytest.approx(fps, rel=1e-3)
    assert info.duration == pytest.approx(1.6, abs=1 / fps)
    numbers = read_numbers(decode(tmp_path / "b.mp4", range(info.num_frames)).frames)
    starts = [(number / 25) - min(0.04, 1 / fps) / 2 - 1e-3 for number in range(40)]
    assert numbers == [max(number for number in range(40) if starts[number] <= time) for time in info.times]


@pytest.mark.parametrize("colorspace", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("color_range", [1, 2])  # 16 to 235, 0 to 255
def test_colours_do_not_change(colorspace, color_range, tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(barcode_frame(number), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=colorspace, dst_color_range=color_range)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    resize_video(tmp_path / "a.mp4", tmp_path / "b.mp4", short_side=256)
    old, new = (decode(tmp_path / name, range(5)).frames.astype(float) for name in ("a.mp4", "b.mp4"))
    assert np.abs(old - new).mean() < 2
    assert np.abs((old - new).mean(axis=(0, 1, 2))).max() < 0.5


def test_rotated_small_and_odd_sized_videos(tmp_path):
    rotated = write_video(tmp_path / "rotated.mp4", rotation=90)
    resize_video(rotated, tmp_path / "1.mp4", short_side=256)
    old, new = decode(rotated, [3]).frames, decode(tmp_path / "1.mp4", [3]).frames
    assert old.shape == new.shape == (1, 96, 64, 3)
    assert np.abs(old.astype(float) - new).mean() < 3
    wide = write_video(tmp_path / "wide.gif", kind="gif", width=99, height=33)
    resize_video(wide, tmp_path / "2.mp4", short_side=256)
    assert decode(tmp_path / "2.mp4", [0]).frames.shape[1:3] in {(32, 98), (32, 100), (34, 98), (34, 100)}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "videos"
    (root / "put down").mkdir(parents=True)
    (root / "take").mkdir()
    good = write_video(root / "put down/a b.mkv", kind="h264-mkv")
    write_video(root / "take/1.mp4")
    (root / "take/text.mp4").write_text("no video")
    truncate(root / "take/cut.mp4", write_video(tmp_path / "fast.mp4", kind="h264-faststart"), fraction=0.6)
    write_frames(root / "take/frames", frames=2)
    (root / "labels.txt").write_text("put down\ntake\n")
    os.utime(good, (1, 1))
    return root


def test_a_folder_skips_unreadable_and_existing_videos(root, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    progress = []
    result = resize_videos(root, tmp_path / "out", short_side=32, on_progress=lambda *args: progress.append(args))
    assert (result.written, result.skipped) == (2, 0)
    assert [error.path for error in result.failures] == [str(root / "take/cut.mp4"), str(root / "take/text.mp4")]
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {".resize.json", "put down/a b.mp4", "take/1.mp4"}
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before

    (tmp_path / "out/take/1.mp4").unlink()
    kept = (tmp_path / "out/put down/a b.mp4").stat().st_mtime_ns
    again = resize_videos(root, tmp_path / "out", short_side=32)
    assert (again.written, again.skipped, len(again.failures)) == (1, 1, 2)
    assert (tmp_path / "out/put down/a b.mp4").stat().st_mtime_ns == kept
    with pytest.raises(XViTError, match=r"was written with short_side=32, not short_side=48: choose another --output"):
        resize_videos(root, tmp_path / "out", short_side=48)


def test_an_interrupt_leaves_no_partial_file(root, tmp_path, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(resize, "check_stop", stop)
    with pytest.raises(KeyboardInterrupt):
        resize_videos(root, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == [".resize.json"]
    monkeypatch.undo()
    with pytest.raises(VideoError, match="no such file"):
        resize_video(root / "none.mp4", tmp_path / "none.mp4", short_side=32)


def test_invalid_folders_and_numbers(root, tmp_path):
    write_video(root / "take/1.avi", kind="mpeg4-avi", frames=2)
    with pytest.raises(XViTError, match=r"1.avi and .*1.mp4 would both become .*1.mp4"):
        resize_videos(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for output in (root, root / "small", root.parent):
        with pytest.raises(XViTError, match="choose a folder elsewhere"):
            resize_videos(root, output)
    (tmp_path / "none").mkdir()
    with pytest.raises(XViTError, match="no video files"):
        resize_videos(tmp_path / "none", tmp_path / "out")
    with pytest.raises(XViTError, match="no such folder"):
        resize_videos(tmp_path / "nowhere", tmp_path / "out")
    (root / "take/1.avi").unlink()
    (tmp_path / "full/x").mkdir(parents=True)
    with pytest.raises(XViTError, match="not an empty directory; choose another --output"):
        resize_videos(root, tmp_path / "full")
    for values in ({"short_side": 1}, {"fps": 0}, {"num_workers": -1}):
        with pytest.raises(XViTError, match=next(iter(values))):
            resize_videos(root, tmp_path / "out", **values)


@pytest.fixture(scope="module")
def resized(tmp_path_factory):
    """A folder of three videos and one of their copies. Read-only."""
    root = tmp_path_factory.mktemp("resized") / "videos"
    root.mkdir()
    for name in "abc":
        write_video(root / f"{name}.mp4", frames=30, width=160, height=120)
    resize_videos(root, root.parent / "small", short_side=60)
    return root, root.parent / "small"


@pytest.mark.parametrize(("limit", "num_workers"), [(100, 0), (3_000, 0), (3_000, 1)])  # the beginning, the packets
def test_a_full_disk_is_not_blamed_on_the_videos(limit, num_workers, resized, tmp_path):
    root, output = resized[0], shutil.copytree(resized[1], tmp_path / "small")
    for name in "bc":
        (output / f"{name}.mp4").unlink()
    assert (output / "a.mp4").stat().st_size > 3_000
    record = (output / ".resize.json").read_bytes()

    def fail(path, text):
        assert text.encode() == record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xvit.data.tools.resize_record.atomic_write_text", fail)
        with limited_file_size(limit), pytest.raises(WriteError, match=r"small/b\.mp4: cannot be written: "):
            resize_videos(root, output, short_side=60, num_workers=num_workers)
    assert sorted(path.name for path in output.iterdir()) == [".resize.json", "a.mp4"]
    assert resize_videos(root, output, short_side=60).written == 2


def test_two_processes_do_not_write_the_same_copies(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4")
    with (
        locked_by_another_process(tmp_path / "small", "xvit data resize") as other,
        pytest.raises(XViTError, match=rf"small: in use by xvit data resize \(process {other.pid} on host "),
    ):
        resize_videos(tmp_path / "videos", tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_video_that_kills_its_process_is_a_failure(tmp_path, monkeypatch):
    """The process leaves a part of a file behind."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", frames=10)

    def parallel_map(function, jobs, *, on_killed, **options):
        part = tmp_path / "out" / ".a.mp4.part"
        part.parent.mkdir(exist_ok=True)
        part.touch()
        return [on_killed(job, "was killed (signal 9)") if job.name == "a.mp4" else function(job) for job in jobs]

    monkeypatch.setattr(resize, "parallel_map", parallel_map)
    result = resize_videos(tmp_path / "in", tmp_path / "out", num_workers=2)
    reason = "the process that read it was killed (signal 9)"
    assert [str(error) for error in result.failures] == [f"{tmp_path / 'in' / 'a.mp4'}: {reason}"]
    assert result.written == 1
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".mp4", ".part")} == {"b.mp4"}
