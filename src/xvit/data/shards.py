"""Shards: tar files of videos in the layout of WebDataset. Videos are read in place; nothing is ever unpacked.

    train-000000.tar           blue/1.mp4  blue/1.json  red/7.mp4  red/7.json  ...
    train-000000.index.json    where the bytes of each video lie in the tar file, and its annotation

The path of a video in a shard is SHARD.tar/KEY.mp4, as if the shard was a folder. `xvit data pack` writes the index. It
is optional: without it, the headers of the shard are read once per process.

Shards come from anywhere. Only regular members with plain names count, and no size in a header is trusted.
"""

import io
import json
import logging
import os
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from xvit.data.video_names import has_video_extension
from xvit.utils.errors import VideoError, XViTError, one_line
from xvit.utils.files import atomic_write_text, parse_json, read_json
from xvit.utils.text import MAX_RECORD_BYTES, is_index

SHARD_EXTENSION = ".tar"
_LABEL_EXTENSIONS = (".json", ".cls")
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = 512  # bytes: the unit of a tar file
_MAX_HEADER = 2**14  # bytes of an extended header, which holds long names
_MAX_MEMBERS = 2**20
_MAX_LABEL = 2**20  # bytes of one annotation
_MAX_LABELS = 2**28  # bytes of all annotations of a shard
_MAX_IN_MEMORY = 2**26  # bytes of a video that is read at once
_BUFFER = 2**16
_MAX_CACHED = 64  # shards whose contents are known and that are open: more than an epoch reads from at a time

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
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


def shard_of(path: str | os.PathLike[str]) -> str:
    """The shard that the path of a video leads into; empty if none."""
    text = os.fspath(path)
    end = text.find(f"{SHARD_EXTENSION}/")
    while end >= 0:
        shard = text[: end + len(SHARD_EXTENSION)]
        if os.path.isfile(shard):
            return shard
        end = text.find(f"{SHARD_EXTENSION}/", end + 1)
    return ""


def find_member(path: str | os.PathLike[str]) -> Member | None:
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


def is_shard(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a shard, by its name."""
    return os.fspath(path).endswith(SHARD_EXTENSION) and os.path.isfile(path)


def check_video_exists(path: str | os.PathLike[str]) -> None:
    """Raise `XViTError` unless there is a file, a folder, or a video in a shard at this path."""
    if find_member(path) is None and not os.path.exists(path):
        raise XViTError(f"{os.fspath(path)}: no such file or folder")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file, or a video in a shard, for reading; raises `OSError` or `VideoError`."""
    member = find_member(path)
    return open(path, "rb") if member is None else member.open()


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of a file or of a video in a shard; raises `OSError`, `ValueError` or `VideoError`."""
    member = find_member(path)
    return os.stat(path).st_size if member is None else member.size


def read_shard(shard: str | os.PathLike[str]) -> Mapping[str, Member]:
    """The videos of a shard by their names, in the order of the tar file: from its index, else from its headers.

    Raises:
        VideoError: no such file; not a tar file, or a compressed one; cut short; a member that is not accepted, which
            the error names; no videos; an index that is damaged.
    """
    with _shard_errors(shard):
        stat = os.stat(shard)
    return _read_shard(os.fspath(shard), stat.st_size, stat.st_mtime_ns)


@lru_cache(_MAX_CACHED)
def _read_shard(shard: str, size: int, time: int) -> Mapping[str, Member]:
    members = _read_index(shard, size)
    return scan_shard(shard) if members is None else members


def index_path(shard: str | os.PathLike[str]) -> Path:
    """Where the index of a shard is."""
    return Path(shard).with_suffix(".index.json")


def write_index(shard: str | os.PathLike[str]) -> None:
    """Write the index of a shard that is complete.

    Raises:
        VideoError: as `read_shard`.
        WriteError: the index cannot be written.
    """
    videos = [[item.name, item.offset, item.size, item.annotation, item.label] for item in scan_shard(shard).values()]
    values = {"bytes": os.stat(shard).st_size, "videos": videos}
    atomic_write_text(index_path(shard), json.dumps(values, separators=(",", ":")) + "\n")


def has_index(shard: str | os.PathLike[str]) -> bool:
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
        members: dict[str, Member] = {}
        for name, offset, length, annotation, label in values["videos"]:
            whole_numbers = type(offset) is int and type(length) is int
            if not isinstance(name, str) or not whole_numbers or min(offset, length) < 0 or offset + length > size:
                raise ValueError
            _check_name(shard, name)
            place = {"shard": shard, "name": name, "offset": offset, "size": length}
            members[name] = Member(**place, annotation=annotation, label=label)
        if not members:
            raise ValueError
    except (XViTError, KeyError, TypeError, ValueError, AttributeError):
        raise VideoError(path, "damaged: delete it, and the headers of the shard are read instead") from None
    return members


def scan_shard(shard: str | os.PathLike[str]) -> dict[str, Member]:
    """The videos of a shard, from the headers of all members. Raises as `read_shard`."""
    shard = os.fspath(shard)
    with _shard_errors(shard), _TarReader(shard) as file:
        head = file.read_at(0, 6)
        for magic, name in _COMPRESSION.items():
            if head.startswith(magic):
                raise VideoError(shard, f"compressed with {name}: videos cannot be read in place: decompress it first")
        try:
            archive = tarfile.open(fileobj=file, mode="r:", encoding="utf-8")
        except tarfile.TarError as error:
            raise VideoError(shard, f"not a tar file ({one_line(error)})") from None
        with archive:
            scan = _Scan(shard, file)
            try:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # which would fill the memory
                    scan.add(info)
            except tarfile.TarError as error:
                raise VideoError(shard, f"damaged after {scan.last or 'its start'} ({one_line(error)})") from None
            scan.check_end(archive.offset)
        return scan.members()


class _Scan:
    """One pass through the headers of a shard."""

    def __init__(self, shard: str, file: "_TarReader") -> None:
        self.shard, self.file, self.size = shard, file, os.fstat(file.fileno()).st_size
        self.last = ""  # name of the latest member
        self._count = self._label_bytes = 0
        self._videos: dict[str, tuple[int, int]] = {}  # offset and size
        self._labels: dict[str, dict[str, Any]] = {}  # contents by extension, by name without it

    def add(self, info: tarfile.TarInfo) -> None:
        """Add a member; raise `VideoError` if it is not accepted."""
        name = info.name.removeprefix("./")
        path = f"{self.shard}/{name}"
        self._count += 1
        if self._count > _MAX_MEMBERS:
            raise VideoError(self.shard, f"more than {_MAX_MEMBERS:,} members: split it into several shards")
        _check_name(self.shard, name)
        if info.issparse():
            raise VideoError(path, "a sparse file: pack it without the option --sparse")
        present = self.size - info.offset_data
        if not 0 <= info.size <= present:
            raise VideoError(path, f"cut short: {max(present, 0)} of its {info.size} bytes are present")
        stem, extension = os.path.splitext(name)
        self.last, is_label = name, extension.lower() in _LABEL_EXTENSIONS
        if info.isdir() or not (is_label or has_video_extension(name)):
            return
        if not info.isreg():
            raise VideoError(path, "a link or a device, not a file: pack the file itself")
        contents: dict[str, Any] = self._labels.setdefault(stem, {}) if is_label else self._videos
        if (extension.lower() if is_label else name) in contents:
            raise VideoError(path, "there twice in the shard: expected each key once")
        if is_label:
            contents[extension.lower()] = self._read_label(path, info)
        else:
            self._videos[name] = info.offset_data, info.size

    def _read_label(self, path: str, info: tarfile.TarInfo) -> Any:
        self._label_bytes += info.size
        if info.size > _MAX_LABEL or self._label_bytes > _MAX_LABELS:
            raise VideoError(path, f"an annotation of {info.size:,} bytes, or too many of them in a shard")
        data = self.file.read_at(info.offset_data, info.size)
        try:
            if not path.lower().endswith(".cls"):
                return parse_json(data)
            text = data.decode().strip()
        except ValueError as error:  # also of text that is not UTF-8
            raise VideoError(path, f"not readable: {one_line(error)}") from None
        return int(text) if is_index(text) and len(text) < 10 else text

    def check_end(self, end: int) -> None:
        """Raise `VideoError` unless a block of zeros, which ends a tar file, follows where its members end."""
        block = self.file.read_at(end, _BLOCK)
        if len(block) < _BLOCK or block.strip(b"\0"):
            kind = "damaged" if len(block) == _BLOCK else "cut short"
            raise VideoError(self.shard, f"{kind} after {self.last}: the end of the archive is missing")

    def members(self) -> dict[str, Member]:
        """The videos, each with its annotation."""
        if not self._videos:
            raise VideoError(self.shard, "no videos in it: expected members such as KEY.mp4 and KEY.json")
        members = {}
        for name, (offset, size) in self._videos.items():
            folder, _, base = name.rpartition("/")
            key = f"{folder}/{base.split('.')[0]}".lstrip("/")  # as WebDataset has it: up to the first dot
            labels = self._labels.get(os.path.splitext(name)[0]) or self._labels.get(key) or {}
            place = {"shard": self.shard, "name": name, "offset": offset, "size": size}
            members[name] = Member(**place, annotation=labels.get(".json"), label=labels.get(".cls"))
        return members


def _check_name(shard: str, name: str) -> None:
    """Raise `VideoError` for a name that leads out of the shard, where a program that unpacks it would write."""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name or "\\" in name:
        raise VideoError(f"{shard}/{name}", "not an acceptable name for a member: expected a relative path like KEY.mp4")


@contextmanager
def _shard_errors(shard: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error while a shard is read into a `VideoError`: tarfile fails in many ways on damaged headers."""
    try:
        yield
    except XViTError:
        raise
    except FileNotFoundError:
        raise VideoError(shard, "no such file") from None
    except OSError as error:
        raise VideoError(shard, f"not readable ({error.strerror or one_line(error)})") from None
    except Exception as error:
        raise VideoError(shard, f"damaged: not readable as a tar file ({one_line(error)})") from None


class _TarReader(io.FileIO):
    """A tar file for `tarfile`, which would read as many bytes of an extended header as that announces: gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError("a header that is too long")
        return super().read(size) or b""

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from any place; fewer at the end of the file."""
        self.seek(offset)
        return super().read(size) or b""


class _Bytes(io.BytesIO):
    """Bytes with the name of the file that they are, from which FFmpeg guesses formats."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class _OpenShard:
    """A shard that stays open: a network disk takes as long to open a file as to read a video."""

    def __init__(self, shard: str) -> None:
        self._file = open(shard, "rb", buffering=0)
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


@lru_cache(_MAX_CACHED)
def _keep_open(shard: str, size: int, time: int) -> _OpenShard:
    return _OpenShard(shard)


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
