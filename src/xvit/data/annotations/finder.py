"""Find videos on disk. This is the one rule for what a folder of videos holds, for all commands.

- A video file counts by its extension, at any depth. Symbolic links to files and folders are followed, except those to
  a folder above.
- A folder with numbered pictures is one video (a folder of frames), unless there are videos in it or below it. Pictures
  that are all named after files of the folder above are thumbnails.
- Hidden files and folders are skipped, and the folders that a file server or an operating system adds.

What is left out is returned by kind, so that the commands can report it.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xvit.data.decode.frame_folder import is_image_file
from xvit.data.shards import read_shard, shard_of
from xvit.data.video_names import has_video_extension
from xvit.utils.addresses import check_address, check_video_root, is_address
from xvit.utils.errors import XViTError
from xvit.utils.files import check_folder
from xvit.utils.text import name_some

NOT_A_VIDEO, HIDDEN = "not a video", "hidden or system"
BROKEN_LINK, LOOP, UNREADABLE = "broken link", "link to a folder above", "unreadable folder"
_SYSTEM_FOLDERS = {"@eadir", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information"}
_SYSTEM_FOLDERS |= {"lost+found", "__pycache__"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}  # like hidden files, nobody means them as videos: not reported

LeftOut = dict[str, list[str]]  # paths by kind

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """What lies below a folder.

    Args:
        videos: the real path of each video by its path, sorted. A video with two names is there twice.
        left_out: what is left out.
    """

    videos: dict[str, str]
    left_out: LeftOut


def scan_folder(root: str | Path) -> FolderContents:
    """Find the videos below a folder; the folder itself may be a folder of frames.

    Raises:
        XViTError: no such folder.
    """
    check_folder(root)
    scan = _Scan()
    scan.visit(os.fspath(root), os.path.realpath(root), above=frozenset(), stems_above=frozenset())
    left_out = {kind: sorted(paths) for kind, paths in sorted(scan.left_out.items())}
    return FolderContents(videos=dict(sorted(scan.videos.items())), left_out=left_out)


def describe_left_out(left_out: Mapping[str, Sequence[str]]) -> str:
    """What was left out, in one line: the number of each kind and some names."""
    return "; ".join(f"{kind}: {len(paths)} ({name_some(paths)})" for kind, paths in left_out.items())


def report_left_out(left_out: Mapping[str, Sequence[str]]) -> None:
    """Log what was left out, if anything was, in one line."""
    if left_out:
        _logger.warning("left out: %s", describe_left_out(left_out))


def merge_left_out(*parts: Mapping[str, Sequence[str]]) -> LeftOut:
    """Join what was left out of several folders."""
    merged: LeftOut = {}
    for part in parts:
        for kind, paths in part.items():
            merged.setdefault(kind, []).extend(paths)
    return merged


class VideoFinder:
    """Finds the videos of annotations. It lists each folder once instead of looking up every video on disk.

    Args:
        root: folder of the videos, or an address that paths are relative to, such as s3://bucket/videos.

    Raises:
        XViTError: no such folder; an address that is not allowed.
    """

    def __init__(self, root: str | Path) -> None:
        check_video_root(root)
        self.root = root
        self._is_remote = is_address(root)
        self._listings: dict[str, tuple[set[str], dict[str, list[str]]]] = {}  # folder: names, videos by stem

    def find_by_path(self, path: str) -> str | None:
        """Find a file, a folder or a video in a shard by its path relative to the root.

        If a video is not there, the only video that differs from it in nothing but the extension is taken. Backslashes
        are read as in Windows unless they are part of the name.

        An address is returned as it is, without asking whether there is a video, if it ends with the extension of one,
        perhaps before a query (?...), or has no separators of a list in it.

        Raises:
            XViTError: an address that is not allowed.
        """
        address = path if is_address(path) else f"{self.root}".rstrip("/") + f"/{path}" if self._is_remote else ""
        if address and not _is_whole_address(address):
            return None
        if address:
            check_address(address)
            return address
        video = self._find(path)
        return self._find(path.replace("\\", "/")) if video is None and "\\" in path else video

    def _find(self, path: str) -> str | None:
        whole = os.path.normpath(os.path.join(self.root, path))
        if shard := shard_of(whole):
            return whole if whole[len(shard) + 1 :] in read_shard(shard) else None
        folder, name = os.path.split(whole)
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
        """All videos below the root with this name and any extension, sorted, files before folders of frames.

        Raises:
            XViTError: the root is an address.
        """
        if self._is_remote:
            raise XViTError(f"{self.root}: videos are not searched at an address: use a list of their paths")
        return self._by_name.get(name, [])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        videos = scan_folder(self.root).videos
        return _group_by_stem(sorted(videos, key=lambda path: not has_video_extension(path)))


def _is_whole_address(text: str) -> bool:
    """Whether text is an address without a part of the line that follows it."""
    name, _, query = text.partition("?")
    return not re.search(r"[\t,; ]", query if has_video_extension(name) else text)


def is_skipped_folder(name: str) -> bool:
    """Whether a folder of this name is left out: hidden, or added by a system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


class _Scan:
    """One walk through a folder."""

    def __init__(self) -> None:
        self.videos: dict[str, str] = {}
        self.left_out: LeftOut = defaultdict(list)

    def visit(self, folder: str, real_folder: str, *, above: frozenset[str], stems_above: frozenset[str]) -> bool:
        """Add what a folder holds; return whether there is a video in it.

        Args:
            folder: the folder.
            real_folder: its real path.
            above: the real paths of the folders that led here: a folder may have two names, but does not hold itself.
            stems_above: the names of the files of the folder above, without extensions.
        """
        folders, files = self._list(folder, real_folder)
        videos = {name for name in files if has_video_extension(name)}
        pictures = {name for name in files if is_image_file(name)}
        self.videos |= {os.path.join(folder, name): files[name] for name in videos}
        stems, found = frozenset(map(_stem, files)), bool(videos)
        for path, real_path in folders.items():
            if is_skipped_folder(os.path.basename(path)):
                self.left_out[HIDDEN].append(path)
            elif _is_above(real_path, real_folder) or real_path in above:
                self.left_out[LOOP].append(path)
            else:
                found = self.visit(path, real_path, above=above | {real_folder}, stems_above=stems) or found
        if not found and _are_frames({*map(_stem, pictures)}, stems_above):
            self.videos[folder], found = real_folder, True
            videos = pictures
        for name in files.keys() - videos:
            if name.startswith("."):
                if has_video_extension(name.lstrip("._")):
                    self.left_out[HIDDEN].append(os.path.join(folder, name))
            elif name.lower() not in _SYSTEM_FILES:
                self.left_out[NOT_A_VIDEO].append(os.path.join(folder, name))
        return found

    def _list(self, folder: str, real_folder: str) -> tuple[dict[str, str], dict[str, str]]:
        """The real paths of what a folder holds: of each folder by its path, and of each file by its name."""
        folders, files = {}, {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_link = entry.is_symlink()
                    real_path = os.path.realpath(entry) if is_link else os.path.join(real_folder, entry.name)
                    if os.path.isdir(entry) if is_link else entry.is_dir():
                        folders[entry.path] = real_path
                    elif os.path.isfile(entry) if is_link else entry.is_file():
                        files[entry.name] = real_path
                    else:
                        self.left_out[BROKEN_LINK if is_link else NOT_A_VIDEO].append(entry.path)
        except OSError:
            self.left_out[UNREADABLE].append(folder)
        return folders, files


def _are_frames(stems: set[str], stems_above: frozenset[str]) -> bool:
    """Whether the pictures of these names are the frames of a video: numbered, and not thumbnails of files above."""
    thumbnails = len(stems) > 1 and stems <= stems_above
    return any(re.search("[0-9]", stem) for stem in stems) and not thumbnails


def _is_above(folder: str, path: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _group_by_stem(paths: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        name = os.path.basename(path)
        groups[os.path.splitext(name)[0] if has_video_extension(name) else name].append(path)
    return groups
