"""The videos that a person gives to a command: files and folders."""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from xvit.data.annotations.finder import LeftOut, merge_left_out, report_left_out, scan_folder
from xvit.utils.errors import XViTError

log = logging.getLogger("xvit")


def find_videos(paths: Iterable[str | Path]) -> list[str]:
    """Expand folders to the videos in them, sorted, as `finder` describes. Files stay as they are.

    A folder without videos is returned itself, so that decoding it reports the error. What folders hold besides videos
    is logged, and so are videos that were given more than once, which are returned once.

    Raises:
        XViTError: no such file or folder.
    """
    found: list[str] = []
    left_out: LeftOut = {}
    for path in (os.fspath(path) for path in paths):
        if os.path.isdir(path):
            contents = scan_folder(path)
            found += contents.videos or [path]
            left_out = merge_left_out(left_out, contents.left_out)
        elif os.path.exists(path):
            found.append(path)
        else:
            raise XViTError(f"{path}: no such file or folder")
    report_left_out(left_out)
    if repeated := [path for path, count in Counter(found).items() if count > 1]:
        log.warning("given more than once, used once: %d videos (%s)", len(repeated), ", ".join(repeated[:3]))
    return list(dict.fromkeys(found))
