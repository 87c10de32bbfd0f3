"""Tar files for tests: of members as they are, of headers that lie, and what tarfile finds in one."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]], *, format=tarfile.PAX_FORMAT) -> Path:
    """Write members: name or header, and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def labelled(videos: dict[str, bytes], labels: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Videos by KEY.mp4 and annotations by KEY, as KEY.json, each behind its video."""
    members = []
    for name, data in videos.items():
        key = name.rpartition(".")[0]
        members += [(name, data)] + ([(f"{key}.json", json.dumps(labels[key]).encode())] if key in labels else [])
    return members


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """The header of a member that is no regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header(name: str, *, size: bytes, kind: bytes = b"0") -> bytes:
    """A header whose field of the size (12 bytes) holds anything."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def read_tar(path: Path) -> dict[str, bytes]:
    """The contents of all regular members, by tarfile alone."""
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}
