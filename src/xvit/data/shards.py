"""Shards: tar files of videos in the layout of WebDataset. Videos are read in place; nothing is ever unpacked.

    train-000000.tar           blue/1.mp4  blue/1.json  red/7.mp4  red/7.json  ...
    train-000000.index.json    where the bytes of each video lie in the tar file, and its annotation

The path of a video in a shard is SHARD.tar/KEY.mp4, as if the shard was a folder. `xvit data pack` writes the index. It
is optional: without it, `shard_headers` reads the headers of the shard, once per process.
"""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from xvit.data.shard_headers import Found, check_name, scan_headers, shard_errors
from xvit.utils.addresses import check_address, is_address
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import atomic_write_text, read_json
from xvit.utils.text import MAX_RECORD_BYTES

SHARD_EXTENSION = ".tar"
_MAX_IN_MEMORY = 2**26  # bytes of a video that is read at once
_BUFFER = 2**16
_MAX_OPEN = 64  # shards that stay open, and whose index is kept in memory: more than an epoch reads from at a time
_MAX_SCANNED = 1024  # shards without an index whose headers are kept in memory, because reading them takes long

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A video in a shard.

    Args:
        shard: the tar file.
        name: KEY.mp4.
        offset: where its bytes start in the tar file.
        size: how many there are.
        annotation: the contents of KEY.json, plain values; None if there is none.
        label: the contents of KEY.cls: a class index or name; None if there is none.
    """

    shard: str
    name: str
    offset: int
    size: int
    annotation: Any = None
    label: int | str | None = None

    @property
    def path(self) -> str:
        """SHARD.tar/KEY.mp4."""
        return f"{self.shard}/{self.name}"

    def open(self, buffer_size: int = _BUFFER) -> io.BufferedReader:
        """The bytes of the video as a file."""
        return io.BufferedReader(_Part(self), buffer_size)

    def load(self) -> BinaryIO:
        """The same for a decoder, which jumps about: read at once, in one sequential read, unless it is very large."""
        if self.size > _MAX_IN_MEMORY:
            return self.open(2**20)
        return _Bytes(_open_shard(self.shard).read_at(self.size, self.offset), self.path)


def shard_of(path: str | Path) -> str:
    """The shard that the path of a video leads into; empty if none."""
    text = os.fspath(path)
    end = text.find(f"{SHARD_EXTENSION}/")
    while end >= 0:
        shard = text[: end + len(SHARD_EXTENSION)]
        if os.path.isfile(shard):
            return shard
        end = text.find(f"{SHARD_EXTENSION}/", end + 1)
    return ""


def find_member(path: str | Path) -> Member | None:
    """The video in a shard that a path names; None if it leads into no shard.

    Raises:
        VideoError: there is no such video in the shard, or the shard cannot be read.
    """
    shard = shard_of(path)
    if not shard:
        return None
    try:
        member = read_shard(shard).get(os.fspath(path)[len(shard) + 1 :])
    except VideoError as error:
        raise VideoError(path, str(error)) from None
    if member is None:
        raise VideoError(path, "no such video in the shard")
    return member


def is_shard(path: str | Path) -> bool:
    """Whether a path is that of a shard, by its name."""
    return os.fspath(path).endswith(SHARD_EXTENSION) and os.path.isfile(path)


def check_video(path: str | Path) -> None:
    """Raise `XViTError` unless `check_video_exists` finds it, or it is an address that is allowed."""
    if is_address(path):
        check_address(str(path))
    else:
        check_video_exists(path)


def check_video_exists(path: str | Path) -> None:
    """Raise `XViTError` unless there is a file, a folder, or a video in a shard at this path."""
    if find_member(path) is None and not os.path.exists(path):
        raise XViTError(f"{os.fspath(path)}: no such file or folder")


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a file, or a video in a shard, for reading; raises `OSError` or `VideoError`."""
    member = find_member(path)
    return open(path, "rb") if member is None else member.open()


def file_size(path: str | Path) -> int:
    """Bytes of a file or of a video in a shard; raises `OSError`, `ValueError` or `VideoError`."""
    member = find_member(path)
    return os.stat(path).st_size if member is None else member.size


def read_shard(shard: str | Path) -> Mapping[str, Member]:
    """The videos of a shard by their names, in the order of the tar file: from its index, else from its headers.

    Raises:
        VideoError: no such file; not a tar file, or a compressed one; cut short; a member that is not accepted, which
            the error names; no videos; an index that is damaged.
    """
    with shard_errors(shard):
        stat = os.stat(shard)
    version = os.fspath(shard), stat.st_size, stat.st_mtime_ns
    members = _indexed(*version)
    return _scanned(*version) if members is None else members


@lru_cache(_MAX_OPEN)
def _indexed(shard: str, size: int, time: int) -> Mapping[str, Member] | None:
    return _read_index(shard, size)


@lru_cache(_MAX_SCANNED)
def _scanned(shard: str, size: int, time: int) -> Mapping[str, Member]:
    return scan_shard(shard)


def index_path(shard: str | Path) -> Path:
    """Where the index of a shard is."""
    return Path(shard).with_suffix(".index.json")


def scan_shard(shard: str | Path) -> dict[str, Member]:
    """The videos of a shard, from its headers alone. Raises as `read_shard`."""
    return _to_members(os.fspath(shard), scan_headers(os.fspath(shard)))


def write_index(shard: str | Path) -> None:
    """Write the index of a shard that is complete.

    Raises:
        VideoError: as `read_shard`.
        WriteError: the index cannot be written.
    """
    videos = [[item.name, item.offset, item.size, item.annotation, item.label] for item in scan_shard(shard).values()]
    values = {"bytes": os.stat(shard).st_size, "videos": videos}
    atomic_write_text(index_path(shard), json.dumps(values, separators=(",", ":")) + "\n")


def has_index(shard: str | Path) -> bool:
    """Whether a shard is complete, with an index that belongs to it."""
    return os.path.isfile(shard) and _read_index(os.fspath(shard), os.stat(shard).st_size) is not None


def _read_index(shard: str, size: int) -> dict[str, Member] | None:
    """The videos of a shard of this size, by its index; None without an index, or if it is of another tar file."""
    path = index_path(shard)
    if not path.exists():
        return None
    try:
        values = read_json(path, max_bytes=MAX_RECORD_BYTES)
        if values["bytes"] != size:
            _logger.warning("%s: not of the tar file beside it, whose headers are read instead", path)
            return None
        for name, offset, length, _, _ in values["videos"]:
            whole_numbers = type(offset) is int and type(length) is int
            if not isinstance(name, str) or not whole_numbers or min(offset, length) < 0 or offset + length > size:
                raise ValueError
            check_name(shard, name)
        if not values["videos"]:
            raise ValueError
    except (XViTError, KeyError, TypeError, ValueError, AttributeError):
        raise VideoError(path, "damaged: delete it, and the headers of the shard are read instead") from None
    return _to_members(shard, values["videos"])


def _to_members(shard: str, videos: Iterable[Found]) -> dict[str, Member]:
    return {
        name: Member(shard=shard, name=name, offset=offset, size=size, annotation=annotation, label=label)
        for name, offset, size, annotation, label in videos
    }


class _Bytes(io.BytesIO):
    """Bytes with the name of the file that they are, from which FFmpeg guesses formats."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class _OpenShard:
    """A shard that stays open: opening a file for each video takes a network disk several round trips."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._file.close()

    def read_at(self, size: int, offset: int) -> bytes:
        """Bytes from any place, in any thread, and in processes that were forked since it was opened."""
        if sys.platform != "win32":
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:  # Windows has no fork, and no pread
            self._file.seek(offset)
            return self._file.read(size) or b""


def _open_shard(shard: str) -> _OpenShard:
    stat = os.stat(shard)
    return _keep_open(shard, stat.st_size, stat.st_mtime_ns)


@lru_cache(_MAX_OPEN)
def _keep_open(shard: str, size: int, time: int) -> _OpenShard:
    return _OpenShard(open(shard, "rb", buffering=0))


class _Part(io.RawIOBase):
    """The bytes of a video in a shard as a file."""

    def __init__(self, member: Member) -> None:
        self._shard = _open_shard(member.shard)
        self._start, self._size, self._position = member.offset, member.size, 0
        self.name = member.path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with memoryview(buffer) as view:
            data = self._read(len(view))
            view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._read(self._size)  # in one read, instead of many small ones

    def _read(self, size: int) -> bytes:
        left = max(self._size - self._position, 0)
        data = self._shard.read_at(min(size, left), self._start + self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = max((0, self._position, self._size)[whence] + offset, 0)
        return self._position
