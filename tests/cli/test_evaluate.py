"""`xvit eval`."""

from helpers.barcode_videos import write_video
from xvit.data.synthetic.motion import CLASSES


def test_unreadable_videos_are_listed(run, checkpoint, tmp_path, bad_videos):
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            write_video(tmp_path / "data" / split / name / "a.mp4")
    bad = tmp_path / "data" / "val" / CLASSES[0] / "b.mp4"
    bad.write_bytes(bad_videos["text"].read_bytes())
    code, out, err = run("eval", "--checkpoint", checkpoint, "--data.root", tmp_path / "data", "--data.num_workers", 0)
    assert code == 1
    assert "of 2 videos" in out
    assert "1 of 3 videos could not be read" in err
    assert str(bad) in err
