"""Changing a video of a data set and undoing it, and the contents of a folder before and after."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHANGES = ("removed", "added", "replaced", "validation video replaced")


@contextmanager
def changed_video(root: Path, change: str) -> Iterator[str]:
    """Change a video of root/train or root/val, and undo it at the end. Yields a pattern of what a message says."""
    split, kind = ("val", "validation") if change == "validation video replaced" else ("train", "training")
    path = min((root / split).rglob("*.mp4"))
    content, added = path.read_bytes(), path.with_name("zz.mp4")
    name = path.relative_to(root).as_posix()
    try:
        if change == "added":
            added.write_bytes(content)
            yield rf"{kind} videos: 1 added \({added.relative_to(root).as_posix()}\)"
        elif change == "removed":
            path.unlink()
            yield rf"{kind} videos: 1 removed \({name}\)"
        else:
            path.write_bytes(content + b"more")
            yield rf"{kind} videos: 1 of another size \({name}\)"
    finally:
        path.write_bytes(content)
        added.unlink(missing_ok=True)


def file_hashes(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder, and empty strings for the folders, by their relative paths."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
