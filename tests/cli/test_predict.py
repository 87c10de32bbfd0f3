"""`xvit predict`."""

import json

from helpers.barcode_videos import write_video


def test_bad_files_do_not_stop_the_others(run, checkpoint, bad_videos, tmp_path):
    good = [write_video(tmp_path / name) for name in ("first.mp4", "last.mp4")]
    words = ["predict", good[0], *bad_videos.values(), good[1], "--checkpoint", checkpoint]
    code, out, err = run(*words)
    assert code == 1
    lines = err.splitlines()
    assert lines[0] == f"xvit: {len(bad_videos)} of {len(bad_videos) + 2} videos could not be read:"
    for path in bad_videos.values():
        assert sum(str(path) in line for line in lines) == 1, path
    assert all(str(path) in out for path in good)
    assert "Traceback" not in err

    code, out, err = run(*words, "--json")
    assert code == 1
    result = json.loads(out)
    assert [prediction["path"] for prediction in result["predictions"]] == [str(path) for path in good]
    assert [failure["path"] for failure in result["failed"]] == [str(path) for path in bad_videos.values()]


def test_folder_without_videos(run, checkpoint, tmp_path):
    code, _, err = run("predict", tmp_path, "--checkpoint", checkpoint)
    assert code == 1
    assert str(tmp_path) in err


def test_invalid_checkpoints(cli_error, checkpoint, tmp_path):
    words = ["predict", "x.mp4", "--checkpoint"]
    assert "no such checkpoint directory" in cli_error(*words, tmp_path / "none")
    assert "not a checkpoint directory" in cli_error(*words, tmp_path)
    assert "a file; expected a checkpoint directory" in cli_error(*words, checkpoint / "config.json")
