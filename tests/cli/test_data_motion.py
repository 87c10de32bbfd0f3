"""`xvit data motion`."""

import json

import av
import pytest

from xvit.data.synthetic.dataset import BACKGROUND_SHARE
from xvit.data.synthetic.motion import CLASSES, SECONDS


def test_writes_videos_and_refuses_a_directory_in_use(run, cli_error, tmp_path):
    output = tmp_path / "videos"
    code, out, err = run("data", "motion", "--output", output, "--clips_per_class", 1, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    files = list(output.rglob("*.mp4"))
    assert result["classes"] == len(CLASSES) + 1 == len({file.parent.name for file in files})
    assert result["videos"] == len(files) == len(CLASSES) + BACKGROUND_SHARE
    assert result["bytes"] == sum(file.stat().st_size for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    assert "exists and is not an empty directory" in cli_error("data", "motion", "--output", output)
    assert before == {file: file.stat().st_mtime_ns for file in output.rglob("*.mp4")}


def test_concatenated_videos(run, cli_error, tmp_path):
    code, out, err = run("data", "motion", "--output", tmp_path / "long", "--concatenate", 1, "--json")
    assert (code, err, json.loads(out)["videos"]) == (0, "", 1)
    assert sorted(path.name for path in (tmp_path / "long").iterdir()) == ["0000.mp4", "segments.json"]
    assert "add --concatenate N" in cli_error("data", "motion", "--output", tmp_path / "x", "--clips-per-video", 2)
    both = ("--concatenate", 1, "--clips-per-class", 1)
    assert "choose one" in cli_error("data", "motion", "--output", tmp_path / "x", *both)


def test_long_video_at_another_frame_rate(run, tmp_path):
    options = ("--concatenate", 1, "--clips-per-video", 3, "--fps", 12.5)
    for name, switches, pause in (("a", (), 6), ("b", ("--no-background",), 0)):
        output = tmp_path / name
        code, out, _ = run("data", "motion", "--output", output, *options, *switches, "--json")
        assert (code, json.loads(out)["classes"]) == (0, len(CLASSES) + (not switches))
        segments = json.loads((output / "segments.json").read_text())["0000.mp4"]
        assert [segment["end"] - segment["start"] for segment in segments] == pytest.approx([SECONDS] * 3)
        with av.open(str(output / "0000.mp4")) as container:
            assert float(container.streams.video[0].average_rate) == 12.5
            assert container.streams.video[0].frames == 12.5 * (3 * SECONDS + pause)


def test_without_background(run, tmp_path):
    run("data", "motion", "--output", tmp_path / "a", "--clips-per-class", 1, "--no-background", "--json")
    assert {file.name for file in (tmp_path / "a" / "train").iterdir()} == set(CLASSES)
