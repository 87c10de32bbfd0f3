"""Writing small files for tests, and reading results back."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from xvit.data.annotations import Sample


def write(path: Path, text: str) -> str:
    """Write a UTF-8 text file and its directories. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def touch(root: Path, *names: str) -> None:
    """Create files below `root` that are not empty, as placeholders for videos."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def ids(samples: Iterable[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def file_bytes(root: Path) -> dict[str, bytes]:
    """The contents of all mp4 files below `root`, by relative path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.mp4"))}


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video, (T, H, W, 3) uint8, read with PyAV alone."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # faster than threads for such small frames
        frames = (frame.reformat(format="rgb24", threads=1) for frame in container.decode(video=0))
        return np.stack([frame.to_ndarray() for frame in frames])


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: writing fails as on a full disk, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Let this process create files with this umask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def file_modes(root: Path) -> dict[str, int]:
    """The mode bits of all files and folders below `root`, by relative path."""
    paths = [path for path in root.rglob("*") if not path.is_symlink()]
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in paths}


@contextmanager
def locked_by_another_process(directory: Path, command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder until the block ends."""
    program = (
        "import sys; from xvit.utils.locks import lock_directory\n"
        "with lock_directory(*sys.argv[1:]): print('locked', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(directory), command]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
