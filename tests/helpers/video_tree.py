"""Class folders with everything that people have in them: links, nesting, frames, pictures, system files."""

import shutil
from pathlib import Path

from helpers.barcode_videos import write_frames, write_video
from helpers.files import touch

VIDEOS = [
    "jog/1.mp4",
    "jog/frames",
    "jog/link to walk/deep/3.mp4",  # a second name, for another class
    "jog/linked file.mp4",
    "run/1.MP4",
    "run/2.mp4",
    "run/nested/3.mp4",
    "walk/1.mp4",
    "walk/2.mp4",
    "walk/group/deep/3.mp4",
]
LEFT_OUT = {
    "not a video": [
        *("jog/pictures/poster.jpg", "walk/1.jpg", "walk/notes.txt", "walk/poster.png"),
        *("walk/thumbs/1.jpg", "walk/thumbs/2.jpg"),
    ],
    "hidden or system": [
        *("$RECYCLE.BIN", ".cache", "@eaDir", "System Volume Information", "__MACOSX", "lost+found"),
        *("walk/._1.mp4", "walk/.hidden.mp4", "walk/.ipynb_checkpoints", "walk/@eaDir"),
    ],
    "broken link": ["jog/broken.mp4"],
    "link to a folder above": ["jog/link to walk/self", "jog/loop", "walk/group/self"],
}


def write_video_tree(root: Path) -> Path:
    """Write the tree, whose videos are readable, to root. Linked files are in root.parent / "elsewhere"."""
    elsewhere = root.parent / "elsewhere"
    for folder in (elsewhere / "run/nested", root / "walk/group/deep", root / "jog"):
        folder.mkdir(parents=True)
    video = write_video(elsewhere / "linked.mp4", frames=12)
    for name in ("run/1.MP4", "run/2.mp4", "run/nested/3.mp4"):
        shutil.copy(video, elsewhere / name)
    for name in ("jog/1.mp4", "walk/1.mp4", "walk/2.mp4", "walk/group/deep/3.mp4"):
        shutil.copy(video, root / name)
    write_frames(root / "jog/frames", frames=12)
    (root / "run").symlink_to(elsewhere / "run")
    (root / "jog/link to walk").symlink_to(root / "walk/group")
    (root / "jog/linked file.mp4").symlink_to(video)
    (root / "jog/broken.mp4").symlink_to(root / "nowhere.mp4")
    (root / "jog/loop").symlink_to(root)
    (root / "walk/group/self").symlink_to(root / "walk")
    touch(root, *(f"{name}/1.mp4" for name in LEFT_OUT["hidden or system"] if not name.endswith(".mp4")))
    touch(root, "walk/._1.mp4", "walk/.hidden.mp4", ".DS_Store", "walk/Thumbs.db", *LEFT_OUT["not a video"])
    return root
