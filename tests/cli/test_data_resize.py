"""`xvit data resize`."""

import json

import pytest

from helpers.barcode_videos import truncate, write_frames, write_video
from xvit.cli.main import main
from xvit.data.decode import probe


def test_resized_videos_and_failures(tmp_path, capfd):
    root = tmp_path / "videos"
    (root / "take").mkdir(parents=True)
    write_video(root / "a b.mkv", kind="h264-mkv")
    write_video(root / "take/1.mp4")
    (root / "take/text.mp4").write_text("no video")
    truncate(root / "take/cut.mp4", write_video(tmp_path / "fast.mp4", kind="h264-faststart"), fraction=0.6)
    write_frames(root / "take/frames", frames=2)
    args = ["data", "resize", str(root), "--output", str(tmp_path / "out"), "--short-side", "32", "--fps", "5"]
    assert main([*args, "--num-workers", "1"]) == 1
    out, error = capfd.readouterr()
    copies = [tmp_path / "out" / name for name in ("a b.mp4", "take/1.mp4")]
    source_bytes = sum((root / name).stat().st_size for name in ("a b.mkv", "take/1.mp4"))
    copy_bytes = sum(path.stat().st_size for path in copies)
    sizes = f"{source_bytes / 1e6:.1f} MB became {copy_bytes / 1e6:.1f} MB"
    assert f"2 videos written to {tmp_path / 'out'}: {sizes}" in out
    assert "2 of 4 videos could not be read" in error
    assert "take/text.mp4: not a readable video file" in error
    assert main([*args, "--num-workers", "0", "--json"]) == 1
    result = json.loads(capfd.readouterr().out)
    assert (result["written"], result["skipped"], len(result["failed"])) == (0, 2, 2)
    assert (result["remade"], result["without_source"]) == (0, [])
    assert (result["source_bytes"], result["copy_bytes"]) == (source_bytes, copy_bytes)
    info = probe(tmp_path / "out/take/1.mp4")
    assert (info.height, info.fps) == (32, pytest.approx(5))
    assert main(["data", "resize", str(root)]) == 2
    assert "--output: missing" in capfd.readouterr().err
