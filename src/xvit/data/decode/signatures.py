"""Recognise files that people take for videos by their first bytes: pictures, playlists, web pages."""

import re
import shlex
from pathlib import Path

from xvit.data.shards import open_file

_HEAD_BYTES = 4096
_MARKUP = rb"(\xef\xbb\xbf)?(?:\s|<\?.*?\?>|<!--.*?-->)*+"  # possessive: without backtracking, which takes hours

_PLAYLISTS = {
    rb"(\xef\xbb\xbf)?\s*#EXTM3U": "an HLS playlist",
    _MARKUP + rb"<MPD\b": "a DASH playlist",
    _MARKUP + rb"<SmoothStreamingMedia\b": "a Smooth Streaming playlist",
    _MARKUP + rb"<(playlist|smil|asx)\b": "a playlist",
    rb"(\xef\xbb\xbf)?\s*\[playlist\]": "a playlist",
    rb"\s*ffconcat version": "a concat script of FFmpeg",
}
_ANIMATIONS = {
    rb"\x89PNG\r\n\x1a\n.*?acTL": "an animated PNG image",
    rb"RIFF....WEBPVP8X.*?ANIM": "an animated WebP image",
}
_PICTURES = {
    rb"\xff\xd8\xff": "a JPEG image",
    rb"\x89PNG\r\n\x1a\n": "a PNG image",
    rb"RIFF....WEBP": "a WebP image",
    rb"BM....\0\0\0\0": "a BMP image",
    rb"II[*+]\0|MM\0[*+]": "a TIFF image",
    rb"....ftyp(heic|heix|heim|heis|mif1)": "a HEIC image",
    rb"....ftypavif": "an AVIF image",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL image",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 image",
    rb"8BPS": "a Photoshop image",
}
_WEB_PAGES = {_MARKUP + rb"<(!doctype html|html)\b": "a web page"}


def why_no_video(path: str | Path) -> str:
    """Return what a file is and what to do, if it is a picture, a playlist or a web page; else ""."""
    try:
        with open_file(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    target = Path(path).with_suffix(".mp4")
    if target == Path(path):
        target = target.with_suffix(".joined.mp4")
    command = shlex.join(["ffmpeg", "-i", str(path), "-c", "copy", str(target)])
    advice = {
        f"which refers to other files: join them first: {command}": _PLAYLISTS,
        "not a video file: convert it to mp4 first": _ANIMATIONS,
        "not a video: put extracted frames into a folder, and give the folder": _PICTURES,
        "not a video: the download has failed": _WEB_PAGES,
    }
    for action, signatures in advice.items():
        for pattern, description in signatures.items():
            if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
                return f"{description}, {action}"
    return ""
