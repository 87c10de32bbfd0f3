"""The videos that a person gives to a command: files, folders, and lists of files and folders."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from xvit.data.annotations.class_folders import SPLITS
from xvit.data.annotations.finder import NOT_A_VIDEO, LeftOut, merge_left_out, report_left_out, scan_folder
from xvit.data.annotations.lists import read_paths
from xvit.data.annotations.webdataset import name_class
from xvit.data.shards import check_video, is_shard, read_shard, shard_of
from xvit.utils.addresses import is_address

LIST_EXTENSIONS = (".txt", ".csv", ".tsv")


def find_videos(paths: Iterable[str | Path], *, root: str | Path | None = None) -> list[str]:
    """Expand folders, lists and shards to videos. Other files stay as they are.

    The videos of a folder are sorted; `finder` describes what counts as one. Of a folder without any, the videos in its
    shards are taken. If there are none either, the folder is returned itself, so that decoding it reports the error.
    What folders hold besides videos is logged, and so are videos that were given more than once, which are returned
    once.

    A list is a file .txt, .csv or .tsv: one video or folder per line, perhaps with labels, which are ignored. Its paths
    are relative to its folder, else to `root` if given, else to the working directory.

    An address (s3://bucket/clip.mp4), given or in a list, is returned as it is if the user has allowed it.

    Raises:
        XViTError: no such file or folder; a line of a list that names none; an address that is not allowed.
    """
    found: list[str] = []
    left_out: LeftOut = {}
    for path in _expand_lists(paths, root):
        if is_shard(path):
            found += _videos_of_shard(path)
        elif os.path.isdir(path):
            contents = scan_folder(path)
            shards = [] if contents.videos else list(filter(is_shard, contents.left_out.get(NOT_A_VIDEO, ())))
            in_shards = [video for shard in shards for video in _videos_of_shard(shard)]
            found += contents.videos or in_shards or [path]
            left_out = left_out if shards else merge_left_out(left_out, contents.left_out)
        else:
            found.append(path)
    report_left_out(left_out)
    if repeated := [path for path, count in Counter(found).items() if count > 1]:
        report_left_out({"given more than once": repeated})
    return list(dict.fromkeys(found))


def class_by_folder(video: str, given: Iterable[str | Path]) -> str | None:
    """The class of a video by its folders: the first one below a folder that was given, else the one that holds it.

    Of an address, it is the folder that holds the video. Below a folder of splits, it is the first one below train, val
    or test. The class of a video in a shard is that of its annotation.
    """
    if is_address(video):
        return next(iter(video.partition("?")[0].split("/")[3:-1][-1:]), None)
    if shard_of(video):
        return name_class(video)
    for folder in given:
        parts = Path(video).parts[len(Path(folder).parts) :] if Path(video).is_relative_to(folder) else ()
        if len(parts) > 2 and parts[0] in SPLITS:
            parts = parts[1:]
        if len(parts) > 1:
            return parts[0]
    return Path(video).absolute().parent.name or None


def _expand_lists(paths: Iterable[str | Path], root: str | Path | None) -> Iterable[str]:
    for path in (os.fspath(path) for path in paths):
        if os.path.isfile(path) and path.lower().endswith(LIST_EXTENSIONS):
            folders = [os.path.dirname(path) or ".", *([] if root is None else [os.fspath(root)]), "."]
            yield from read_paths(path, folders)
        else:
            check_video(path)
            yield path


def _videos_of_shard(shard: str) -> list[str]:
    return [member.path for member in read_shard(shard).values()]
