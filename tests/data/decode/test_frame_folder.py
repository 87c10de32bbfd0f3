"""Tests of folders of extracted frames, which are read like videos."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from helpers.barcode_videos import barcode_frame, read_numbers, write_frames, write_image
from xvit.data.decode import Clip, frame_folder, probe, read_clip, video
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
def test_frames_are_in_the_order_of_their_numbers(name, first, tmp_path):
    folder = write_frames(tmp_path / "video.mp4", name=name, first=first, frames=12)
    (folder / "notes.txt").touch()
    (folder / ".hidden.jpg").touch()
    clip = read_clip(str(folder), lambda info: [11, 0, 9, 10, 10, 30], fps=50)
    assert isinstance(clip, Clip)
    assert read_numbers(clip.frames) == [11, 0, 9, 10, 10, 11]
    assert clip.indices.tolist() == [11, 0, 9, 10, 10, 11]
    assert clip.times.tolist() == [index / 50 for index in clip.indices]
    assert (clip.num_repeated, clip.num_damaged, clip.path) == (1, 0, str(folder))


def test_probe_of_a_folder(tmp_path):
    info = probe(write_frames(tmp_path, frames=6), fps=60)
    assert (info.num_frames, info.fps, info.duration) == (6, 60, 0.1)
    assert (info.width, info.height, info.codec, info.container, info.damage) == (96, 64, "mjpeg", "folder", "")
    assert info.times.tolist() == [number / 60 for number in range(6)]
    assert info.warnings == ()
    assumed = probe(tmp_path)
    assert (assumed.fps, assumed.warnings) == (30, ("no timestamps: 30 frames per second assumed",))
    for fps in (0, -1, "25"):
        with pytest.raises(XViTError, match="fps="):
            probe(tmp_path, fps=fps)


def test_png_is_exact(tmp_path):
    folder = write_frames(tmp_path, name="{}.png", frames=3)
    frames = read_clip(folder, lambda info: range(3)).frames
    assert np.array_equal(frames, np.stack([barcode_frame(number) for number in range(3)]))
    grey = np.arange(64 * 64).astype(np.uint8).reshape(64, 64)
    write_image(tmp_path / "grey.png", grey)
    (tmp_path / "grey").mkdir()
    (tmp_path / "grey.png").rename(tmp_path / "grey/1.jpg")  # the wrong extension, too
    assert np.array_equal(read_clip(tmp_path / "grey", lambda info: [0]).frames[0], np.stack([grey] * 3, axis=-1))


def test_only_requested_images_are_decoded(tmp_path, monkeypatch):
    folder = write_frames(tmp_path, frames=30)
    decoded = []
    decode_image = video.decode_image
    monkeypatch.setattr(video, "decode_image", lambda path: decoded.append(path) or decode_image(path))
    assert read_numbers(read_clip(folder, lambda info: [25, 3, 3]).frames) == [25, 3, 3]
    assert [os.path.basename(path) for path in decoded] == ["frame_0000000004.jpg", "frame_0000000026.jpg"]
    for number in range(2, 31):
        (folder / f"frame_{number:010d}.jpg").write_bytes(b"no image")
    assert read_numbers(read_clip(folder, lambda info: [0]).frames) == [0]


def test_large_images_are_shrunk(tmp_path):
    folder = write_frames(tmp_path, frames=2, width=200, height=160)
    assert read_clip(folder, lambda info: [1], short_side=32).frames.shape == (1, 32, 40, 3)
    assert read_clip(folder, lambda info: [1], short_side=100).frames.shape == (1, 160, 200, 3)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def announcing_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces a large image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(99)))
        + png_chunk(b"IEND", b"")
    )


def damage_variants(data: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(len(data) // 4)
    return {
        "empty": b"",
        "text": b"not an image at all",
        "first half": data[: len(data) // 2],
        "end missing": data[:-40],
        "noise": data[: len(data) // 2] + noise + data[len(data) // 2 + len(noise) :],
        "two bytes": data[:2],
        "bomb": announcing_png(60000, 60000),
        "elongated": announcing_png(60000, 2),
        "gif": b"GIF89a" + bytes(50),
        "playlist": b"#EXTM3U\nfile:///etc/passwd\n",
    }


@pytest.mark.parametrize("position", [1, 3])
@pytest.mark.parametrize("damage", damage_variants(bytes(400)))
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_damaged_or_hostile_image_is_an_error_of_one_line(damage, extension, position, tmp_path):
    folder = write_frames(tmp_path, frames=4, name="{}." + extension)
    path = folder / f"{position}.{extension}"
    path.write_bytes(damage_variants(path.read_bytes())[damage])
    with pytest.raises(VideoError) as caught:
        read_clip(folder, lambda info: [0, 2])
    assert str(path) in str(caught.value) or "the frame size changes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def other_jpeg(number: int, path: Path, **options) -> bytes:
    Image.fromarray(barcode_frame(number)).save(path, "JPEG", **options)
    return path.read_bytes()


def test_pictures_joined_by_damage_are_refused(tmp_path, monkeypatch):
    """FFmpeg decodes the last of several pictures in a file, without an error: a frame of another moment."""
    folder = write_frames(tmp_path / "frames", frames=3, name="{}.jpg")
    path = folder / "2.jpg"
    write_image(tmp_path / "other.jpg", barcode_frame(9))
    data, other = path.read_bytes(), (tmp_path / "other.jpg").read_bytes()
    for start in (0, 2, other.index(b"\xff\xdb"), other.index(b"\xff\xc0")):
        for lost in (10, 30, 50):  # bytes at the end of the first picture
            path.write_bytes(data[: len(data) - lost] + other[start:])
            with pytest.raises(VideoError, match=r"2\.jpg: not a readable image"):
                read_clip(folder, lambda info: [1])
            with monkeypatch.context() as patch:
                patch.setattr(frame_folder, "_is_one_picture", lambda data: True)
                assert read_numbers(read_clip(folder, lambda info: [1]).frames) == [9]


def test_other_markers_of_a_jpeg_are_no_damage(tmp_path):
    """Progressive scans, a preview within a segment, filling bytes, whatever follows the end, restart markers."""
    folder = write_frames(tmp_path / "frames", frames=3, name="{}.jpg")
    plain = other_jpeg(1, tmp_path / "1.jpg")
    variants = [
        other_jpeg(1, tmp_path / "2.jpg", progressive=True),
        other_jpeg(1, tmp_path / "3.jpg", comment=plain),
        other_jpeg(1, tmp_path / "4.jpg", restart_marker_rows=1),
        plain[:2] + b"\xff\xff" + plain[2:],
        plain + plain,
        plain + bytes(500),
    ]
    assert variants[1].count(b"\xff\xda") == 2
    for data in variants:
        (folder / "2.jpg").write_bytes(data)
        assert read_numbers(read_clip(folder, lambda info: [0, 1, 2]).frames) == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "a folder without videos or frame images"),
        (["a.txt"], "without videos or frame images"),
        (["img_1.jpg", "flow_x_1.jpg"], 'several sequences, such as "flow_x_#" and "img_#"'),
        (["1.jpg", "cover.jpg"], 'several sequences, such as "#" and "cover"'),
    ],
)
def test_folders_that_are_not_a_video(names, message, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=message):
        probe(tmp_path)


def test_images_of_two_sizes_are_an_error(tmp_path):
    write_frames(tmp_path, frames=4)
    write_image(tmp_path / "frame_0000000003.jpg", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(VideoError, match="the frame size changes within the video, from 96x64 to 40x40"):
        read_clip(tmp_path, lambda info: range(4))


def test_only_regular_files_are_opened(tmp_path):
    folder = write_frames(tmp_path, frames=2)
    os.mkfifo(folder / "frame_0000000003.jpg")  # reading it would block forever
    (folder / "frame_0000000004.jpg").mkdir()
    (folder / "frame_0000000005.jpg").symlink_to("nowhere")
    assert probe(folder).num_frames == 2


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt", b"tEXt"])
def test_png_metadata_is_not_expanded(kind, tmp_path, monkeypatch):
    folder = write_frames(tmp_path, frames=2, name="{}.png")
    expected = read_clip(folder, lambda info: [0, 1]).frames
    sizes = {path.stat().st_size for path in folder.glob("*.png")}
    contents = b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    for path in folder.glob("*.png"):
        data = path.read_bytes()
        header = 8 + 25  # the signature and the chunk IHDR
        bomb = png_chunk(kind, contents + zlib.compress(bytes(10**7)))
        path.write_bytes(data[:header] + bomb + data[header:])
    given: set[int] = set()
    real = av.Packet
    monkeypatch.setattr(av, "Packet", lambda data: given.add(len(data)) or real(data))
    assert np.array_equal(read_clip(folder, lambda info: [0, 1]).frames, expected)
    assert given == sizes  # the decoder never got the chunk
