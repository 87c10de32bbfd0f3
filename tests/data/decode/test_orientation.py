"""Frames are shown as players show them: display matrices of files, of H.264 messages, and of images (Exif)."""

import itertools
import logging
import math
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import given
from hypothesis import strategies as st

from helpers.barcode_videos import FORMATS, barcode_frame, write_display_matrix, write_frames, write_image, write_video
from helpers.live_sources import collect
from xvit.data.capture.source import Source
from xvit.data.decode import decode, probe, read_clip, video
from xvit.data.decode.orientation import ODD_MATRIX, Orientation, parse_matrix
from xvit.data.decode.sequential import FrameReader
from xvit.data.tools.resize import resize_video
from xvit.utils.errors import VideoError

MATRICES = {
    "stored": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "turned by 180": (-1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "turned by 90": (0, 1, -1, 0),
    "turned by -90": (0, -1, 1, 0),
    "transposed and turned": (0, -1, -1, 0),
}
FRAMES = 30


def shown(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """Move each pixel of an image (H, W, C) by a display matrix."""
    a, b, c, d = matrix
    height, width, _ = image.shape
    places = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(height) for x in range(width)}
    left, top = (min(values) for values in zip(*places, strict=True))
    right, bottom = (max(values) for values in zip(*places, strict=True))
    result = np.zeros((int(bottom - top) + 1, int(right - left) + 1, 3), np.uint8)
    for (x, y), colour in places.items():
        result[int(y - top), int(x - left)] = colour
    return result


def pack(*values: int) -> bytes:
    """A display matrix (a, b, c, d) as FFmpeg's side data."""
    a, b, c, d = values
    return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 2**30)


@pytest.fixture(scope="module")
def upright(folder) -> Path:
    return write_video(folder / "upright.mp4", frames=FRAMES)


@pytest.mark.parametrize("name", MATRICES)
def test_every_reader_shows_a_file_as_its_matrix_says(name, upright, folder, tmp_path, monkeypatch):
    path = write_display_matrix(folder / f"{name}.mp4", upright, MATRICES[name])
    indices = [3, 20]
    expected = np.stack([shown(image, MATRICES[name]) for image in decode(upright, indices).frames])
    clip = decode(path, indices)
    np.testing.assert_array_equal(clip.frames, expected)
    assert clip.warnings == ()
    assert (probe(path).width, probe(path).height) == (96, 64)  # as stored
    small = decode(path, indices, short_side=30).frames
    assert small.shape[1:3] == ((30, 45) if MATRICES[name][0] else (45, 30))

    reader = FrameReader(path)
    np.testing.assert_array_equal(np.concatenate([frames for _, frames in reader])[indices], expected)
    assert reader.damage == ""
    frames, _ = collect(Source(path))
    np.testing.assert_array_equal(np.stack([frames[index].pixels for index in indices]), expected)
    resize_video(path, tmp_path / "resized.mp4", short_side=64)
    resized = decode(tmp_path / "resized.mp4", indices).frames
    assert resized.shape == expected.shape
    assert np.abs(resized.astype(int) - expected).mean() < 3
    monkeypatch.setattr(video, "decode_by_seeking", lambda *args: False)
    assert np.array_equal(decode(path, indices).frames, clip.frames)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("kind", ["h264-mkv", "h264-intra", "vp9-webm", "mpeg4-mp4"])
def test_containers_and_decoders_carry_the_matrix(kind, name, folder):
    a, b, c, d = MATRICES[name]
    path, upright = (folder / f"{which}-{kind}{FORMATS[kind].suffix}" for which in (name, "plain"))
    write_video(path, frames=2, kind=kind, matrix=[2**16 * value for value in (a, b, 0, c, d, 0, 0, 0, 2**14)])
    write_video(upright, frames=2, kind=kind)
    expected = [shown(image, MATRICES[name]) for image in decode(upright, [0, 1]).frames]
    np.testing.assert_array_equal(decode(path, [0, 1]).frames, np.stack(expected))


@pytest.mark.parametrize(("kind", "count"), [("h264-mp4", 10), ("h264-ts", 30)])  # one keyframe, three with messages
@pytest.mark.parametrize(
    ("rotate", "flips"),
    [(90, ""), (180, ""), (270, ""), (0, "horizontal"), (0, "vertical"), (90, "horizontal"), (90, "vertical")],
)
def test_an_orientation_message_holds_for_the_frames_after_it(rotate, flips, kind, count, folder):
    """H.264 mirrors first, then turns counter-clockwise. FFmpeg reports a message for one frame only."""
    upright = write_video(folder / f"message{FORMATS[kind].suffix}", frames=count, kind=kind)
    path = folder / f"message{rotate}{flips}{FORMATS[kind].suffix}"
    options = ("" if not rotate else f":rotate={rotate}") + ("" if not flips else f":flip={flips}")
    with av.open(str(upright)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        message = BitStreamFilterContext(f"h264_metadata=display_orientation=insert{options}", stream)
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            for changed in message.filter(packet if packet.size else None):
                changed.stream = copy
                new.mux(changed)
    images = decode(upright, range(count)).frames
    mirrored = {"horizontal": images[:, :, ::-1], "vertical": images[:, ::-1]}.get(flips, images)
    expected = np.stack([np.rot90(image, rotate // 90) for image in mirrored])
    np.testing.assert_array_equal(decode(path, range(count)).frames, expected)
    np.testing.assert_array_equal(decode(path, [7]).frames, expected[7:8])
    np.testing.assert_array_equal(np.concatenate([frames for _, frames in FrameReader(path)]), expected)
    frames, _ = collect(Source(path), stride=3)  # the frame with the message is read, the next two are skipped
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), expected[::3])


EXIF_PLACES = {  # where a viewer shows row 0 and column 0 of the stored image
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def shown_by_exif(image: np.ndarray, orientation: int) -> np.ndarray:
    height, width, _ = image.shape
    places = EXIF_PLACES[orientation]
    result = np.zeros((width, height, 3) if orientation > 4 else image.shape, np.uint8)
    for y, x in itertools.product(range(height), range(width)):
        row = y if places[0] in ("top", "left") else height - 1 - y
        column = x if places[1] in ("top", "left") else width - 1 - x
        result[(column, row) if orientation > 4 else (row, column)] = image[y, x]
    return result


def write_exif(path: Path, orientation: int, byte_order: str = "<") -> None:
    """Add an Exif orientation to a JPEG or PNG, followed by another one that holds for its thumbnail."""
    entry = struct.pack(byte_order + "HHIHH", 0x112, 3, 1, orientation, 0)
    thumbnail = struct.pack(byte_order + "HHIHH", 0x112, 3, 1, 3, 0)
    one = struct.pack(byte_order + "H", 1)
    exif = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(byte_order + "I", 8)
    exif += one + entry + struct.pack(byte_order + "I", 26) + one + thumbnail + bytes(4)
    data = path.read_bytes()
    if path.suffix == ".png":
        chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        path.write_bytes(data[:33] + chunk + data[33:])
    else:
        path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:])


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", EXIF_PLACES)
def test_extracted_frames_are_shown_as_exif_says(orientation, suffix, byte_order, tmp_path):
    folder = write_frames(tmp_path, frames=2, name="{}" + suffix)
    images = read_clip(folder, lambda info: [0, 1]).frames
    for path in folder.iterdir():
        write_exif(path, orientation, byte_order)
    clip = read_clip(folder, lambda info: [0, 1], fps=25)
    expected = np.stack([shown_by_exif(image, orientation) for image in images])
    np.testing.assert_array_equal(clip.frames, expected)
    assert clip.warnings == ()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_exif_orientation_changes_nothing(orientation, tmp_path):
    folder = write_frames(tmp_path, frames=1)
    before = read_clip(folder, lambda info: [0])
    write_exif(folder / "frame_0000000001.jpg", orientation)
    assert np.array_equal(read_clip(folder, lambda info: [0]).frames, before.frames)


def test_frames_of_several_orientations(tmp_path):
    image = barcode_frame(5)
    for number, orientation in enumerate((1, 3, 6), start=1):
        write_image(tmp_path / f"{number}.png", image)
        write_exif(tmp_path / f"{number}.png", orientation)
    np.testing.assert_array_equal(read_clip(tmp_path, lambda info: [0, 1]).frames, np.stack([image, image[::-1, ::-1]]))
    with pytest.raises(VideoError, match="the frame size changes within the video, from 96x64 to 64x96"):
        read_clip(tmp_path, lambda info: [0, 2])
    write_image(tmp_path / "4.png", image)  # without Exif, after an image that is turned
    np.testing.assert_array_equal(read_clip(tmp_path, lambda info: [1, 3]).frames[1], image)
    (tmp_path / "4.png").unlink()
    for number in (1, 2):  # with the third one turned, all have the same displayed size
        write_image(tmp_path / f"{number}.png", shown_by_exif(image, 6))
    expected = np.stack([shown_by_exif(image, 6)] * 3)
    np.testing.assert_array_equal(read_clip(tmp_path, lambda info: range(3)).frames, expected)


def rotation(degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


@given(
    name=st.sampled_from(sorted(MATRICES)),
    degrees=st.one_of(st.floats(-1.8, 1.8), st.floats(2.2, 44), st.floats(-44, -2.2)),
    scale=st.floats(0.01, 100),
)
def test_the_nearest_orientation_is_used(name, degrees, scale):
    matrix = np.array(MATRICES[name]).reshape(2, 2) @ rotation(degrees) * scale * 2**16
    orientation = parse_matrix(pack(*np.rint(matrix).astype(int).ravel().tolist()))
    assert orientation[:4] == MATRICES[name]
    assert orientation.exact == (abs(degrees) < 2)


@given(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 4))
def test_any_matrix_is_read(matrix):
    orientation = parse_matrix(pack(*matrix))
    assert orientation[:4] in MATRICES.values()
    a, b, c, d = matrix
    if (a, c) == (0, 0) or (b, d) == (0, 0):
        assert orientation == Orientation()


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (-1, 0, 0, 0), (0, -1, 0, -1)])
def test_a_degenerate_matrix_changes_nothing(matrix, upright, folder):
    path = write_display_matrix(folder / "degenerate.mp4", upright, matrix)
    clip = decode(path, [4])
    assert np.array_equal(clip.frames, decode(upright, [4]).frames)
    assert clip.warnings == ()


@pytest.mark.parametrize(
    ("matrix", "nearest"),
    [(rotation(20).ravel(), "stored"), (rotation(70).ravel(), "turned by 90"), ((-1, 0.3, 0, 1), "mirrored")],
)
def test_another_matrix_is_reported_by_every_reader(matrix, nearest, upright, folder, tmp_path, caplog):
    path = write_display_matrix(folder / "odd.mp4", upright, matrix)
    clip = decode(path, [4])
    assert clip.warnings == (ODD_MATRIX,)
    expected = shown(decode(upright, [4]).frames[0], MATRICES[nearest])
    np.testing.assert_array_equal(clip.frames[0], expected)
    reader = FrameReader(path)
    assert np.array_equal(np.concatenate([frames for _, frames in reader])[4:5], clip.frames)
    assert reader.warnings == (ODD_MATRIX,)
    with caplog.at_level(logging.WARNING, logger="xvit"):
        resize_video(path, tmp_path / "resized.mp4", short_side=64)
        assert caplog.messages == [f"{path}: {ODD_MATRIX}"]
        collect(Source(path))
    assert caplog.messages == [f"{path}: {ODD_MATRIX}"] * 2
