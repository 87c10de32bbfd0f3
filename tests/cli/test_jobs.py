"""`xvit predict`, `xvit features` and `xvit data check` with --input."""

import json
import math
import signal
import time

import pyarrow.parquet as pq
import pytest

from helpers.warm_processes import WarmProcess


@pytest.fixture(scope="module")
def listed(tmp_path_factory, videos):
    """A list of all videos of the data set, and of one that is none."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "bad.mp4").write_text("no video")
    paths = [*sorted(videos.rglob("*.mp4")), "bad.mp4"]
    (folder / "videos.txt").write_text("".join(f"{path}\n" for path in paths))
    return folder / "videos.txt"


def read_rows(output):
    return pq.read_table(output / "parts").to_pylist()


def test_predict(run, listed, checkpoint, tmp_path, capfd):
    output = tmp_path / "out"
    words = ["predict", "--input", listed, "--output", output, "--checkpoint", checkpoint, "--num-workers", 0]
    lines = listed.read_text().splitlines()
    num_parts = math.ceil(len(lines) / 8)
    without_last = num_parts % 2  # the shard that does not hold the last part, where the video is that is none
    code, out, err = run(*words, "--top-k", 2, "--part-size", 8, "--shard", f"{without_last}/2")
    assert (code, err) == (0, "")
    numbers = sorted(int(path.stem) for path in (output / "parts").iterdir())
    assert numbers == list(range(without_last, num_parts, 2))
    code, out, err = run(*words, "--top-k", 2, "--part-size", 8)
    assert code == 1
    assert f"{len(lines)}, of which {8 * len(numbers)} were there before" in out
    assert err.splitlines()[0] == f"xvit: 1 of {len(lines)} videos failed:"
    assert err.splitlines()[1].startswith("  bad.mp4: ")
    rows = sorted(read_rows(output), key=lambda row: row["index"])
    assert [row["path"] for row in rows] == lines
    assert [row["status"] for row in rows] == ["ok"] * (len(lines) - 1) + ["failed"]
    code, out, err = run("predict", *lines[:3], "--checkpoint", checkpoint, "--top-k", 2, "--json")
    for row, prediction in zip(rows, json.loads(out)["predictions"], strict=False):
        assert row["labels"] == prediction["labels"]
        assert row["scores"] == pytest.approx(prediction["scores"], abs=1e-6)

    code, out, _ = run(*words, "--top-k", 2, "--part-size", 8, "--json")
    summary = json.loads(out)
    assert (code, summary["rows"], summary["failed"], summary["continued"]) == (1, len(lines), 1, len(lines))
    assert [failure["path"] for failure in summary["failures"]] == ["bad.mp4"]


def test_features_and_data_check(run, listed, checkpoint, tmp_path):
    lines = listed.read_text().splitlines()
    words = ["--input", listed, "--output"]
    code, out, _ = run("features", *words, tmp_path / "a", "--checkpoint", checkpoint, "--num-workers", 0, "--json")
    assert (code, json.loads(out)["rows"]) == (1, len(lines))
    assert all((row["features"] is None) == (row["path"] == "bad.mp4") for row in read_rows(tmp_path / "a"))
    code, out, _ = run("data", "check", *words, tmp_path / "b", "--data.num_workers", 0, "--json")
    assert (code, json.loads(out)["failed"]) == (1, 1)
    assert {row["codec"] for row in read_rows(tmp_path / "b")} == {"h264", None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_continued(number, listed, checkpoint, tmp_path):
    """Parts that are written stay, and the same command goes on."""
    output = tmp_path / "out"
    paths = [line for line in listed.read_text().splitlines() if line != "bad.mp4"] * 40
    (tmp_path / "many.txt").write_text("\n".join(paths))
    words = ["predict", "--input", tmp_path / "many.txt", "--output", output, "--checkpoint", checkpoint]
    words += ["--part-size", 8, "--num-workers", 1]
    process = WarmProcess(*words)
    while len(list((output / "parts").glob("*.parquet"))) < 2:
        process.send_signal(0)  # raises if it has ended
        time.sleep(0.01)
    process.send_signal(number)
    code, _, err = process.wait()
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    if number != signal.SIGKILL:
        assert "rows are in" in err
        assert err.endswith("Run the same command to continue.\n")
    before = {path: path.read_bytes() for path in (output / "parts").glob("*.parquet")}
    assert before
    code, _, err = WarmProcess(*words).wait()
    assert (code, err) == (0, "")
    assert {path: path.read_bytes() for path in before} == before
    assert [row["index"] for row in read_rows(output)] == list(range(len(paths)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict --input {list} --checkpoint {model}", "--output: missing: the folder for the rows"),
        ("predict --output {out} --checkpoint {model}", "--output: is for large jobs: give their videos with --input"),
        ("predict --checkpoint {model}", "VIDEO_OR_FOLDER or --input: missing"),
        ("predict {list} --shard 1/2 --checkpoint {model}", "--shard: is for large jobs"),
        ("predict {list} --input {list} --output {out} --checkpoint {model}", "cannot be combined with --input"),
        ("predict --input none --output {out} --checkpoint {model}", "none: no such file or folder"),
        ("predict --input {list} --output {list} --checkpoint {model}", "is a file; expected a directory"),
        ("predict --input {list} --output {out} --checkpoint {model} --shard 2/2", "--shard 2/2: expected I/N"),
        ("predict --input {list} --output {out} --checkpoint {model} --shard a", "--shard a: expected I/N"),
        ("predict --input {list} --output {out} --checkpoint {model} --actors 2", "--actors: is for --runner ray"),
        ("predict --input {list} --output {out} --checkpoint {model} --runner slurm", "local"),
        ("predict --input {list} --output {out} --checkpoint {model} --part-size 5", "a multiple of the 8 videos"),
        ("features --input {list} --output {out}", "--checkpoint: missing: the model of a large job"),
        ("features --output {out}", "VIDEO_OR_FOLDER or --input: missing"),
        ("data check --input {list} --output {out} --data.root .", "--data.root: cannot be combined with --input"),
        ("data check --output {out}", "--data.root or --input: missing"),
    ],
)
def test_wrong_options(words, message, cli_error, listed, checkpoint, tmp_path):
    names = {"list": listed, "model": checkpoint, "out": tmp_path / "out"}
    assert message in cli_error(*(word.format(**names) for word in words.split()))
    assert not (tmp_path / "out").exists()
