"""Class folders with every kind of usable and unusable video."""

from pathlib import Path

from helpers.barcode_videos import corrupt, truncate, write_audio, write_frames, write_video

PROBLEMS = {
    "take/cut.mp4": "cut short",
    "take/empty.mp4": "unreadable",
    "take/short.mp4": "too short",
    "take/sound.mp4": "unreadable",
    "take/text.mp4": "unreadable",
}
PROBLEMS_IN_FULL_CHECK = {"take/broken frames": "damaged", "take/noise.mp4": "damaged"}
USABLE = ["put down/1.mp4", "put down/a b, c.mp4", "take/1.mp4", "take/frames", "take/slow.mp4"]


def write_bad_dataset(root: Path) -> Path:
    (root / "put down").mkdir(parents=True)
    (root / "take").mkdir()
    good = write_video(root / "put down/1.mp4", frames=40)
    write_video(root / "put down/a b, c.mp4", frames=12)
    write_video(root / "take/1.mp4", frames=20)
    write_video(root / "take/slow.mp4", frames=20, fps=5)
    write_video(root / "take/short.mp4", frames=5)
    write_frames(root / "take/frames", frames=10)
    write_frames(root / "take/broken frames", frames=10)
    (root / "take/broken frames/frame_0000000005.jpg").write_bytes(b"none")
    write_audio(root / "take/sound.mp4")
    (root / "take/text.mp4").write_text("no video")
    (root / "take/empty.mp4").touch()
    truncate(root / "take/cut.mp4", write_video(root.parent / "fast.mp4", kind="h264-faststart"), fraction=0.6)
    corrupt(root / "take/noise.mp4", good)
    (root / "take/link.mp4").symlink_to(root / "nowhere.mp4")
    return root
