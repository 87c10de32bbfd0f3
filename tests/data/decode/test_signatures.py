"""Pictures, playlists and web pages that are given as a video: the error says what they are and what to do."""

import pickle
import shlex
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest

from helpers.barcode_videos import FORMATS, barcode_frame, write_image, write_video
from helpers.live_sources import collect, http_server, send
from xvit.cli.main import main
from xvit.data.capture.source import Source
from xvit.data.decode import decode, probe
from xvit.data.decode.signatures import why_no_video
from xvit.utils.errors import VideoError


def image_bytes(folder: Path, codec: str, pix_fmt: str) -> bytes:
    """An image that FFmpeg writes."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 96, 64, pix_fmt, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(barcode_frame(3), format="rgb24").reformat(format=pix_fmt)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def animated_png(folder: Path) -> bytes:
    path = folder / "animation.apng"
    with av.open(str(path), "w", format="apng") as container:
        stream = container.add_stream("apng", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode_frame(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def png(folder: Path) -> bytes:
    write_image(folder / "image.png", barcode_frame(3))
    return (folder / "image.png").read_bytes()


def jpeg(folder: Path) -> bytes:
    write_image(folder / "image.jpg", barcode_frame(3))
    return (folder / "image.jpg").read_bytes()


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(400)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
DASH = '<?xml version="1.0" encoding="utf-8"?>\n<!-- made by hand -->\n<MPD xmlns="urn:mpeg:dash:schema">\n</MPD>\n'
PICTURE, JOIN, CONVERT = "put extracted frames into a folder", "join them first: ffmpeg -i", "convert it to mp4 first"
FILES = {  # contents, what it is, what to do
    "JPEG": (jpeg, "a JPEG image", PICTURE),
    "PNG": (png, "a PNG image", PICTURE),
    "APNG": (animated_png, "an animated PNG image", CONVERT),
    "BMP": (lambda folder: image_bytes(folder, "bmp", "bgr24"), "a BMP image", PICTURE),
    "TIFF": (lambda folder: image_bytes(folder, "tiff", "rgb24"), "a TIFF image", PICTURE),
    "WebP": (lambda folder: riff(b"VP8L" + bytes(60)), "a WebP image", PICTURE),
    "animated WebP": (
        lambda folder: riff(b"VP8X\x0a\0\0\0\x02\0\0\0" + bytes(6), b"ANIM\6\0\0\0" + bytes(6), b"ANMF" + bytes(60)),
        "an animated WebP image",
        CONVERT,
    ),
    "HEIC": (lambda folder: ftyp(b"heic"), "a HEIC image", PICTURE),
    "AVIF": (lambda folder: ftyp(b"avif"), "an AVIF image", PICTURE),
    "HLS": (lambda folder: HLS.encode(), "an HLS playlist", JOIN),
    "HLS with a byte-order mark": (lambda folder: HLS.encode("utf-8-sig"), "an HLS playlist", JOIN),
    "DASH": (lambda folder: DASH.encode(), "a DASH playlist", JOIN),
    "DASH in one line": (lambda folder: b"<MPD></MPD>", "a DASH playlist", JOIN),
    "concat": (lambda folder: b"ffconcat version 1.0\nfile a.mp4\n", "a concat script of FFmpeg", JOIN),
    "web page": (lambda folder: b"\n<!DOCTYPE html>\n<html></html>", "a web page", "the download has failed"),
}


@pytest.mark.parametrize("suffix", ["own", ".mp4", ".gif"])
@pytest.mark.parametrize("name", FILES)
def test_the_error_says_what_a_file_is_and_what_to_do(name, suffix, tmp_path):
    contents, description, action = FILES[name]
    path = tmp_path / ("a video's file" + ("" if suffix == "own" else suffix))
    path.write_bytes(contents(tmp_path))
    for read in (probe, lambda path: decode(path, [0]), lambda path: decode(path, [0], strict=False)):
        with pytest.raises(VideoError) as caught:
            read(path)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert caught.value.reason.startswith(f"{description}, ")
        assert action in caught.value.reason
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match=description):
        collect(Source(path))
    if action == JOIN:
        command = shlex.split(caught.value.reason.partition("first: ")[2])
        target = tmp_path / ("a video's file.joined.mp4" if suffix == ".mp4" else "a video's file.mp4")
        assert command == ["ffmpeg", "-i", str(path), "-c", "copy", str(target)]


@pytest.mark.parametrize("kind", FORMATS)
def test_videos_are_not_mistaken(kind, make_video):
    assert why_no_video(make_video(kind)) == ""


@pytest.mark.parametrize("unit", [b"<!---->", b"<??>", b"\n<!-- -->", b"<!--", b" "])
def test_any_amount_of_markup_before_anything_else_is_read_once(unit, tmp_path):
    """With backtracking, all ways to divide the comments would be tried: this test would not end."""
    path = tmp_path / "hostile.mp4"
    for tail, description in ((b"x", ""), (b"<MPD>", "a DASH playlist")):
        path.write_bytes(unit * (4000 // len(unit)) + tail)
        expected = "" if unit == b"<!--" else description  # a comment without an end
        assert why_no_video(path).partition(",")[0] == expected


def test_a_file_that_cannot_be_read_keeps_its_error(tmp_path):
    for path in (tmp_path / "missing.mp4", tmp_path):
        assert why_no_video(path) == ""
    (tmp_path / "text.mp4").write_text("no video\n" * 400)
    with pytest.raises(VideoError, match="not a readable video file, or cut short"):
        probe(tmp_path / "text.mp4")


@pytest.mark.parametrize("name", ["live.m3u8", "LIVE.M3U8?token=1.2", "live.mpd"])
def test_a_playlist_behind_an_address_is_refused_with_the_way_around(name, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    message = "cannot be opened: a playlist refers to other addresses: pipe it, with ffmpeg -i"
    with (
        http_server(send((DASH if "mpd" in name else HLS).encode())) as address,
        pytest.raises(VideoError, match=message),
    ):
        collect(Source(f"{address}/{name}"))


def test_the_resize_command_reports_a_picture_named_as_a_video(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/good.mp4", frames=2)
    (tmp_path / "videos/bad.mp4").write_bytes(jpeg(tmp_path))
    main(["data", "resize", str(tmp_path / "videos"), "--output", str(tmp_path / "out"), "--num-workers", "0"])
    assert f"{tmp_path / 'videos/bad.mp4'}: a JPEG image, not a video" in capsys.readouterr().err
