"""Folders of extracted frames, read as videos are."""

import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch

from helpers.barcode_videos import barcode_frame, read_number, read_numbers, write_frames, write_picture
from helpers.color_videos import COLOURS
from xvit.config import ClipSpec
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.decode import video
from xvit.data.decode.video import Clip, probe, read_clip
from xvit.utils.errors import VideoError, XViTError


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("frame_{:010d}.jpg", 1),
        ("img_{:05d}.jpg", 0),
        ("{:06d}.jpg", 7),
        ("{}.png", 0),
        ("P01_11 frame{}.JPEG", 95),
        ("%d {}.jpg", 1),
    ],
)
def test_frames_in_the_order_of_their_numbers(name, first, tmp_path):
    folder = write_frames(tmp_path / "video.mp4", name=name, first=first, frames=12)
    (folder / "notes.txt").touch()
    (folder / ".hidden.jpg").touch()
    clip = read_clip(str(folder), lambda info: [11, 0, 9, 10, 10, 30], fps=50)
    assert isinstance(clip, Clip)
    assert read_numbers(clip.frames) == [11, 0, 9, 10, 10, 11]
    assert clip.indices.tolist() == [11, 0, 9, 10, 10, 11]
    assert clip.times.tolist() == [index / 50 for index in clip.indices]
    assert (clip.repeated, clip.damaged, clip.path) == (1, 0, str(folder))


def test_what_is_told_of_a_folder(tmp_path):
    info = probe(write_frames(tmp_path, frames=6), fps=60)
    assert (info.num_frames, info.fps, info.duration) == (6, 60, 0.1)
    assert (info.width, info.height, info.codec, info.container, info.damage) == (96, 64, "mjpeg", "folder", "")
    assert info.times.tolist() == [number / 60 for number in range(6)]
    assert probe(tmp_path).fps == 30
    for fps in (0, -1, "25"):
        with pytest.raises(XViTError, match="fps="):
            probe(tmp_path, fps=fps)


def test_png_is_exact(tmp_path):
    folder = write_frames(tmp_path, name="{}.png", frames=3)
    frames = read_clip(folder, lambda info: range(3)).frames
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), np.stack([barcode_frame(number) for number in range(3)]))
    grey = np.arange(64 * 64).astype(np.uint8).reshape(64, 64)
    write_picture(tmp_path / "grey.png", grey)
    (tmp_path / "grey").mkdir()
    (tmp_path / "grey.png").rename(tmp_path / "grey/1.jpg")  # the wrong extension, too
    assert torch.equal(
        read_clip(tmp_path / "grey", lambda info: [0]).frames[0], torch.from_numpy(grey).expand(3, -1, -1)
    )


def test_only_the_wanted_pictures_are_decoded(tmp_path, monkeypatch):
    folder = write_frames(tmp_path, frames=30)
    opened = []
    monkeypatch.setattr(video, "open_picture", lambda path, f=video.open_picture: opened.append(path) or f(path))
    assert read_numbers(read_clip(folder, lambda info: [25, 3, 3]).frames) == [25, 3, 3]
    assert [os.path.basename(path) for path in opened] == ["frame_0000000004.jpg", "frame_0000000026.jpg"]
    for number in range(2, 31):
        (folder / f"frame_{number:010d}.jpg").write_bytes(b"no picture")
    assert read_numbers(read_clip(folder, lambda info: [0]).frames) == [0]


def test_large_pictures_are_shrunk(tmp_path):
    folder = write_frames(tmp_path, frames=2, width=200, height=160)
    assert read_clip(folder, lambda info: [1], short_side=32).frames.shape == (1, 3, 32, 40)
    assert read_clip(folder, lambda info: [1], short_side=100).frames.shape == (1, 3, 160, 200)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _promise(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises a large picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(99)))
        + _chunk(b"IEND", b"")
    )


def _damage(data: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(len(data) // 4)
    return {
        "empty": b"",
        "text": b"not a picture at all",
        "half": data[: len(data) // 2],
        "end": data[:-40],
        "noise": data[: len(data) // 2] + noise + data[len(data) // 2 + len(noise) :],
        "start": data[:2],
        "bomb": _promise(60000, 60000),
        "ribbon": _promise(60000, 2),
        "gif": b"GIF89a" + bytes(50),
        "script": b"#EXTM3U\nfile:///etc/passwd\n",
    }


@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize("what", _damage(bytes(400)))
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_hostile_picture_gives_one_clear_line(what, extension, place, tmp_path):
    folder = write_frames(tmp_path, frames=4, name="{}." + extension)
    path = folder / f"{place}.{extension}"
    path.write_bytes(_damage(path.read_bytes())[what])
    with pytest.raises(VideoError) as caught:
        read_clip(folder, lambda info: [0, 2])
    assert str(path) in str(caught.value) or "the picture size changes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "a folder without videos or pictures of one"),
        (["a.txt"], "without videos or pictures"),
        (["img_1.jpg", "flow_x_1.jpg"], 'several series, such as "flow_x_#" and "img_#"'),
        (["1.jpg", "cover.jpg"], 'several series, such as "#" and "cover"'),
    ],
)
def test_folders_that_are_no_video(names, said, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=said):
        probe(tmp_path)


def test_pictures_of_two_sizes(tmp_path):
    write_frames(tmp_path, frames=4)
    write_picture(tmp_path / "frame_0000000003.jpg", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(VideoError, match="the picture size changes within the video, from 96x64 to 40x40"):
        read_clip(tmp_path, lambda info: range(4))


def test_what_is_no_file_is_not_opened(tmp_path):
    folder = write_frames(tmp_path, frames=2)
    os.mkfifo(folder / "frame_0000000003.jpg")  # reading it would wait forever
    (folder / "frame_0000000004.jpg").mkdir()
    (folder / "frame_0000000005.jpg").symlink_to("nowhere")
    assert probe(folder).num_frames == 2


def test_a_data_set_of_folders_with_rates_of_their_own(tmp_path):
    folder = write_frames(tmp_path / "v", frames=100, width=64)
    spec = ClipSpec(num_frames=4, image_size=32, **COLOURS)

    def numbers(**stretch):
        item = VideoDataset(samples=[Sample(path=str(folder), label=0, id="v", **stretch)], clip_spec=spec)[0]
        return item.error.reason if item.error else [read_number(f.permute(1, 2, 0).numpy()) for f in item.pixels[0]]

    assert numbers(start=1.0, stop=1.08, fps=50.0) == [50, 51, 52, 53]
    assert numbers(start=1.0, stop=1.08, fps=25.0) == [25, 25, 26, 26]
    assert numbers(start=1.0, stop=1 + 4 / 30) == [30, 31, 32, 33]
    assert numbers(start=9.0, fps=50.0) == "starts at 9 s, but the video ends at 2 s"
