"""`xvit data motion`."""

import json

from xvit.data.synthetic.motion import CLASSES


def test_writes_videos_and_refuses_a_directory_in_use(run, cli_error, tmp_path):
    output = tmp_path / "videos"
    code, out, err = run("data", "motion", "--output", output, "--clips_per_class", 1, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    files = list(output.rglob("*.mp4"))
    assert result["videos"] == len(files) == len(CLASSES) == result["classes"]
    assert result["bytes"] == sum(file.stat().st_size for file in files)
    before = {file: file.stat().st_mtime_ns for file in files}
    assert "exists and is not an empty directory" in cli_error("data", "motion", "--output", output)
    assert before == {file: file.stat().st_mtime_ns for file in output.rglob("*.mp4")}


def test_concatenated_videos(run, cli_error, tmp_path):
    code, out, err = run("data", "motion", "--output", tmp_path / "long", "--concatenate", 1, "--json")
    assert (code, err, json.loads(out)["videos"]) == (0, "", 1)
    assert sorted(path.name for path in (tmp_path / "long").iterdir()) == ["0000.mp4", "segments.json"]
    both = ("--concatenate", 1, "--clips-per-class", 1)
    assert "choose one" in cli_error("data", "motion", "--output", tmp_path / "x", *both)
