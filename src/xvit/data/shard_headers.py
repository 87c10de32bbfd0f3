"""Read the headers of a shard: where its videos lie, and their annotations.

Shards come from anywhere. Only regular members with plain names count, and no size in a header is trusted.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xvit.data.video_names import has_video_extension
from xvit.utils.errors import VideoError, XViTError, one_line
from xvit.utils.files import parse_json
from xvit.utils.text import is_index

_LABEL_EXTENSIONS = (".json", ".cls")
_COMPRESSION = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = 512  # bytes: the unit of a tar file
_MAX_HEADER = 2**13  # bytes of an extended header, which holds long names
_MAX_HEADERS = 2**24  # bytes of all that are not short: some versions of tarfile need the square of their length
_MAX_MEMBERS = 2**20
_MAX_LABEL = 2**20  # bytes of one annotation
_MAX_LABELS = 2**28  # bytes of all annotations of a shard

Found = tuple[str, int, int, Any, int | str | None]  # name, offset, size, contents of KEY.json, of KEY.cls


def scan_headers(shard: str) -> list[Found]:
    """The videos of a shard, from the headers of all members.

    Raises:
        VideoError: no such file; not a tar file, or a compressed one; cut short; a member that is not accepted, which
            the error names; no videos.
    """
    with shard_errors(shard), _TarReader(shard) as file:
        head = file.read_at(0, 6)
        for magic, name in _COMPRESSION.items():
            if head.startswith(magic):
                raise VideoError(shard, f"compressed with {name}: videos cannot be read in place: decompress it first")
        file.seek(0)
        with _open_archive(shard, file) as archive:
            scan = _Scan(shard, file)
            try:
                while (info := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # they would fill the memory
                    scan.add(info)
            except tarfile.TarError as error:
                raise VideoError(shard, f"damaged after {scan.last or 'its start'} ({one_line(error)})") from None
            scan.check_end(archive.offset)
        return list(scan.found())


def _open_archive(shard: str, file: "_TarReader") -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:", encoding="utf-8")
    except tarfile.TarError as error:
        raise VideoError(shard, f"not a tar file ({one_line(error)})") from None


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
        check_name(self.shard, name)
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

    def found(self) -> Iterator[Found]:
        """The videos, each with its annotation."""
        if not self._videos:
            raise VideoError(self.shard, "no videos in it: expected members such as KEY.mp4 and KEY.json")
        for name, (offset, size) in self._videos.items():
            folder, _, base = name.rpartition("/")
            key = f"{folder}/{base.split('.')[0]}".lstrip("/")  # as WebDataset has it: up to the first dot
            labels = self._labels.get(os.path.splitext(name)[0]) or self._labels.get(key) or {}
            yield name, offset, size, labels.get(".json"), labels.get(".cls")


def check_name(shard: str, name: str) -> None:
    """Raise `VideoError` for a name that leads out of the shard, where a program that unpacks it would write."""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name or "\\" in name:
        raise VideoError(f"{shard}/{name}", "not an acceptable name for a member: expected a path like KEY.mp4")


@contextmanager
def shard_errors(shard: str | Path) -> Iterator[None]:
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

    long_headers = 0  # bytes read

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError("a header that is too long")
        self.long_headers += size if size > 2 * _BLOCK else 0
        if self.long_headers > _MAX_HEADERS:
            raise tarfile.ReadError("too many long headers")
        return super().read(size) or b""

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from any place; fewer at the end of the file."""
        self.seek(offset)
        return super().read(size) or b""
