"""Find video files and folders of frames on disk."""

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from xvit.data.decode import VIDEO_EXTENSIONS
from xvit.data.decode.frame_folder import is_image_file
from xvit.utils.errors import XViTError


class VideoFinder:
    """Finds the videos of annotations. It lists each folder once instead of looking up every video on disk.

    Args:
        root: folder of the videos.

    Raises:
        XViTError: no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        check_folder(root)
        self.root = root
        self._listings: dict[str, tuple[set[str], dict[str, list[str]]]] = {}  # folder: names, videos by stem

    def find_by_path(self, path: str) -> str | None:
        """Find a file or folder by its path relative to the root.

        If a video is not there, the only video that differs from it in nothing but the extension is taken.
        """
        folder, name = os.path.split(os.path.normpath(os.path.join(self.root, path)))
        if folder not in self._listings:
            try:
                names = set(os.listdir(folder or "."))
            except OSError:
                names = set()
            self._listings[folder] = names, _group_by_stem(sorted(filter(has_video_extension, names)))
        names, by_stem = self._listings[folder]
        if name in names:
            return os.path.join(folder, name)
        similar = by_stem.get(os.path.splitext(name)[0], []) if has_video_extension(name) else []
        return os.path.join(folder, similar[0]) if len(similar) == 1 else None

    def find_by_name(self, name: str) -> list[str]:
        """All videos below the root with this name and any extension, sorted, files before folders of frames."""
        return self._by_name.get(name, [])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        files, frame_folders, visited = [], [], set()
        for folder, subfolders, names in os.walk(self.root, followlinks=True):
            real_path = os.path.realpath(folder)
            if real_path in visited:  # a symbolic link to a folder that was visited
                subfolders.clear()
                continue
            visited.add(real_path)
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            videos = [os.path.join(folder, name) for name in names if has_video_extension(name)]
            files += videos
            if not videos and any(map(is_image_file, names)):
                frame_folders.append(folder)
        return _group_by_stem([*sorted(files), *sorted(frame_folders)])


def find_videos(paths: Iterable[str | Path]) -> list[str]:
    """Expand folders to all videos in them, at any depth, sorted. Files stay as they are, whether they exist or not.

    A folder that holds images and no video file counts as one video. A folder with neither is returned itself, so that
    decoding it reports the error.
    """
    found: list[str] = []
    for path in paths:
        videos: list[str] = []
        for folder, _, names in os.walk(path):
            files = [os.path.join(folder, name) for name in names if is_video_file(os.path.join(folder, name))]
            if files:
                videos += files
            elif any(map(is_image_file, names)):
                videos.append(folder)
        found += sorted(videos) or [os.fspath(path)]
    return found


def check_folder(path: str | Path) -> None:
    """Raise `XViTError` unless `path` is a folder."""
    if not os.path.isdir(path):
        raise XViTError(f"{path}: {'a file, not a folder' if os.path.exists(path) else 'no such folder'}")


def has_video_extension(name: str) -> bool:
    """Whether a file of this name counts as a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not os.path.basename(name).startswith(".")


def is_video_file(path: str | Path) -> bool:
    """Whether there is a file with the extension of a video at this path."""
    return has_video_extension(os.fspath(path)) and os.path.isfile(path)


def _group_by_stem(paths: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        name = os.path.basename(path)
        groups[os.path.splitext(name)[0] if has_video_extension(name) else name].append(path)
    return groups
