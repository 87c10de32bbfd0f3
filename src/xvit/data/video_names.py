"""Which file names are those of videos."""

import os

VIDEO_EXTENSIONS = frozenset({".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"}) | {
    *(".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
}


def has_video_extension(name: str) -> bool:
    """Whether a file of this name counts as a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not os.path.basename(name).startswith(".")
