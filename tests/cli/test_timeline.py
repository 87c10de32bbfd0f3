"""`xvit timeline`, on long videos of the kind that `xvit data motion --concatenate` writes."""

import csv
import json

import numpy as np
import pytest

from helpers.barcode_videos import truncate, write_video
from helpers.tiny import TINY_MODEL, TINY_RECIPE
from xvit.cli.timeline import format_time
from xvit.config import ClipSpec, ModelConfig
from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.data.synthetic.motion import CLASSES
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT

JSON_NAME = json.dumps("动作 $1_\udce9")[1:-1]
LOW = ("--threshold", 0.05)  # with random weights, all 12 classes have scores of about 1/12


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory):
    """A folder with two videos of 4 clips, 8 s each. Read-only."""
    output = tmp_path_factory.mktemp("concatenated") / "long"
    write_concatenated_videos(output, num_videos=2, clips_per_video=4)
    return output


@pytest.fixture(scope="module")
def streamable(tmp_path_factory):
    """A checkpoint of a model that can be streamed, with a stride of 2."""
    model = XViT(ModelConfig(**TINY_MODEL, num_classes=12, causal=True, temporal_position="head"))
    clip = ClipSpec(**TINY_RECIPE["clip"], frame_rate=None, sampling="strided", stride=2)
    model.clip_spec, model.class_names = resolve_clip_spec(clip, model.backbone), sorted(CLASSES)
    model.save_pretrained(tmp_path_factory.mktemp("streamable") / "best")
    return tmp_path_factory.getbasetemp() / "streamable0" / "best"


def test_one_video(run, cli_error, long_videos, streamable, tmp_path):
    # A file name with letters that the font lacks, a formula and an invalid byte.
    video, output = tmp_path / "动作 $1_\udce9.mp4", tmp_path / "output"
    video.write_bytes((long_videos / "0000.mp4").read_bytes())
    segments = (long_videos / "segments.json").read_text().replace("0000.mp4", f"{JSON_NAME}.mp4")
    (tmp_path / "ground_truth.json").write_text(segments)
    words = ["timeline", video, "--checkpoint", streamable, "--output", output, *LOW]
    code, out, err = run(*words, "--ground-truth", tmp_path / "ground_truth.json")
    assert (code, err) == (0, "")
    assert str(tmp_path) in out
    assert "0:08.0" in out
    assert "frame accuracy" in out
    assert sorted(path.name for path in output.iterdir()) == [
        f"timeline.{end}" for end in ("csv", "json", "png", "srt")
    ]
    result = json.loads((output / "timeline.json").read_text())
    assert (result["video"], result["method"]) == (str(video), "stream")
    assert (result["stride"], result["predict_every"]) == (2, 1)
    assert result["duration"] == pytest.approx(8)
    rows = list(csv.DictReader((output / "timeline.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [segment["label"] for segment in result["segments"]]
    assert (rows[0]["start"], rows[-1]["end"]) == ("0.000", "8.000")
    assert (output / "timeline.srt").read_text().startswith("1\n00:00:00,000 --> ")
    assert (output / "timeline.png").stat().st_size > 10_000
    assert 0 <= result["metrics"]["frame_accuracy"] <= 1
    assert set(result["metrics"]["f1"]) == set(result["metrics"]["mean_ap"]) == {"0.1", "0.25", "0.5"}

    before = {path: path.read_bytes() for path in output.iterdir()}
    assert "not an empty directory" in cli_error(*words)
    assert before == {path: path.read_bytes() for path in output.iterdir()}

    code, out, err = run(*words[:4], "--threshold", 1)
    assert (code, err) == (0, "")
    assert "no score reaches the threshold" in out


def test_several_videos_and_json(run, cli_error, long_videos, checkpoint, tmp_path):
    words = ["timeline", long_videos, "--checkpoint", checkpoint, *LOW, "--stride", 2, "--predict-every", 4]
    words += ["--smooth", 2]
    options = ["--ground-truth", long_videos / "segments.json", "--output", tmp_path / "out", "--json"]
    code, out, err = run(*words, *options)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [video["method"] for video in result["videos"]] == ["windows"] * 2
    assert result["failed"] == []
    each = [video["metrics"]["frame_accuracy"] for video in result["videos"]]
    assert result["metrics"]["frame_accuracy"] == pytest.approx(np.mean(each))
    assert result["metrics"]["videos"] == 2
    for video, name in zip(result["videos"], ("0000", "0001"), strict=True):
        assert json.loads((tmp_path / "out" / name / "timeline.json").read_text()) == video
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "0000.mkv").touch()
    assert "a second video named 0000" in cli_error(
        "timeline", tmp_path / "same" / "0000.mkv", *words[1:], "--output", tmp_path / "new"
    )
    assert not (tmp_path / "new").exists()


def test_unreadable_and_damaged_videos_do_not_stop_the_others(run, streamable, tmp_path):
    good = write_video(tmp_path / "good.avi", frames=60, kind="mjpeg-avi")
    half = truncate(tmp_path / "half.avi", good, fraction=0.5)
    (tmp_path / "text.avi").write_text("no video")
    words = ["timeline", good, tmp_path / "text.avi", half, good, "--checkpoint", streamable, *LOW]
    code, out, err = run(*words)
    assert code == 1
    assert out.count(str(good)) == 2
    assert str(half) in out
    lines = err.splitlines()
    assert lines[0] == "xvit: 2 of 4 videos could not be read:"
    assert "text.avi" in lines[1]
    assert "cut short" in lines[2]
    assert "scored as far as it can be read" in lines[2]
    result = json.loads(run(*words, "--json")[1])
    assert [video["video"] for video in result["videos"]] == [str(good), str(half), str(good)]
    assert "cut short" in result["videos"][1]["damage"]
    assert result["videos"][1]["duration"] < 2 < result["videos"][0]["duration"]
    assert len(result["failed"]) == 2

    code, out, _ = run("timeline", half, "--checkpoint", streamable, "--output", tmp_path / "out", *LOW)
    assert code == 1
    assert (tmp_path / "out" / "timeline.png").stat().st_size > 10_000


def test_invalid_arguments_and_input(cli_error, long_videos, checkpoint, streamable, tmp_path):
    words = ["timeline", long_videos / "0000.mp4", "--checkpoint"]
    assert cli_error(*words, checkpoint).startswith("--stride: missing")
    assert "stride=0" in cli_error(*words, streamable, "--stride", 0)
    assert "low_threshold=0.7" in cli_error(*words, streamable, "--low-threshold", 0.7)
    assert "no such checkpoint" in cli_error(*words, tmp_path / "none")
    assert "no such file" in cli_error(*words, streamable, "--ground-truth", tmp_path / "none.json")
    (tmp_path / "segments.json").write_text("{}")
    assert "0000.mp4: not in" in cli_error(*words, streamable, "--ground-truth", tmp_path / "segments.json")
    (tmp_path / "segments.json").write_text('{"0000.mp4": [{"start": 0, "end": 2, "label": "moving_lefd"}]}')
    assert 'Did you mean "moving_left"?' in cli_error(*words, streamable, "--ground-truth", tmp_path / "segments.json")


def test_format_time_never_shows_60_seconds():
    assert [format_time(seconds) for seconds in (0, 59.94, 59.96, 3599.99)] == ["0:00.0", "0:59.9", "1:00.0", "60:00.0"]
