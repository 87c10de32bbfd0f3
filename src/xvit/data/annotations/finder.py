"""Where annotated videos lie on disk: found by few listings of folders, not by a look for each video."""

import os
from collections import defaultdict
from pathlib import Path

from xvit.data.decode import VIDEO_EXTENSIONS
from xvit.data.decode.frame_folder import is_image_file
from xvit.utils.errors import XViTError


class VideoFinder:
    """Where the videos of annotations lie, with a listing of each folder instead of a look at the disk for each video.

    Args:
        root: the folder of the videos.

    Raises:
        XViTError: no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        check_folder(root)
        self.root = root
        self._folders: dict[str, tuple[set[str], dict[str, list[str]]]] = {}
        self._named: dict[str, list[str]] | None = None

    def at(self, path: str) -> str | None:
        """The file or folder at a path that is relative to the root; if need be, one whose extension is another."""
        folder, name = os.path.split(os.path.normpath(os.path.join(self.root, path)))
        if folder not in self._folders:
            try:
                names = set(os.listdir(folder or "."))
            except OSError:
                names = set()
            self._folders[folder] = names, _by_stem(sorted(name for name in names if has_extension(name)))
        names, stems = self._folders[folder]
        found = [name] if name in names else stems.get(os.path.splitext(name)[0], []) if has_extension(name) else []
        return os.path.join(folder, found[0]) if len(found) == 1 else None

    def named(self, name: str) -> list[str]:
        """Videos of this name and any extension, anywhere below the root, sorted, files before folders of frames."""
        if self._named is None:
            videos, frames, seen = [], [], set()
            for folder, folders, names in os.walk(self.root, followlinks=True):
                real = os.path.realpath(folder)
                folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
                if real in seen:  # a link back
                    continue
                seen.add(real)
                here = [name for name in names if has_extension(name)]
                videos += [os.path.join(folder, name) for name in here]
                frames += [folder] * (not here and any(map(is_image_file, names)))
            self._named = _by_stem([*sorted(videos), *sorted(frames)])
        return self._named.get(name, [])


def check_folder(path: str | Path) -> None:
    """Raise `XViTError` unless there is such a folder."""
    if not os.path.isdir(path):
        raise XViTError(f"{path}: {'a file, not a folder' if os.path.exists(path) else 'no such folder'}")


def rate_of(path: str, fps: float | None) -> float | None:
    """`fps` for what is no video file by its name, but a folder of frames."""
    return None if has_extension(path) else fps


def has_extension(name: str) -> bool:
    """Whether a file of this name counts as a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not os.path.basename(name).startswith(".")


def _by_stem(paths: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        name = os.path.basename(path)
        found[os.path.splitext(name)[0] if has_extension(name) else name].append(path)
    return dict(found)
