"""Writing small files for tests, and reading results back."""

from collections.abc import Iterable
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
