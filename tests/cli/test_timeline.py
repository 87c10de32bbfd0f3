"""`xvit timeline`, on long videos of the kind that `xvit data motion --concatenate` writes."""

import csv
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.barcode_videos import truncate, write_video
from helpers.tiny import TINY_MODEL, TINY_RECIPE
from xvit.cli.timeline import format_time
from xvit.config import ClipSpec, ModelConfig
from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.data.synthetic.dataset import encode_video
from xvit.data.synthetic.motion import CLASSES, render_clip
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT
from xvit.timeline.scoring import score_video

JSON_NAME = json.dumps("动作 $1_\udce9")[1:-1]
LOW = ("--threshold", 0.05)  # with random weights, all 12 classes have scores of about 1/12


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory):
    """A folder with two videos of 4 clips, 8 s each. Read-only."""
    output = tmp_path_factory.mktemp("concatenated") / "long"
    write_concatenated_videos(output, num_videos=2, clips_per_video=4)
    return output


def make_model(class_names) -> XViT:
    """A model with random weights that can be streamed, with a stride of 2."""
    torch.manual_seed(0)
    model = XViT(ModelConfig(**TINY_MODEL, num_classes=len(class_names), causal=True, temporal_position="head"))
    clip = ClipSpec(**TINY_RECIPE["clip"], frame_rate=None, sampling="strided", stride=2)
    model.clip_spec, model.class_names = resolve_clip_spec(clip, model.backbone), list(class_names)
    return model


@pytest.fixture(scope="module")
def streamable(tmp_path_factory):
    """A checkpoint that counts frames as they are in the video."""
    directory = tmp_path_factory.mktemp("streamable") / "best"
    make_model(sorted(CLASSES)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A checkpoint that sees 4 frames per second, with the classes left, background and right."""
    model = make_model(["left", "background", "right"])
    with torch.no_grad():
        torch.manual_seed(0)
        for tensor in model.parameters():  # labels that change over time
            tensor.add_(torch.randn_like(tensor))
    model.clip_spec = replace(model.clip_spec, frame_rate=8.0)
    directory = tmp_path_factory.mktemp("timed") / "best"
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def half_still(tmp_path_factory):
    """12 s at 8 frames per second: 4 s of motion, 4 s of one frozen picture, 4 s of motion."""
    motion = [render_clip("moving_left", np.random.default_rng(seed)) for seed in range(4)]
    path = tmp_path_factory.mktemp("still") / "still.mp4"
    still = np.repeat(motion[1][-1:], 32, axis=0)
    encode_video(np.concatenate([*motion[:2], still, *motion[2:]]), path)
    return path


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
    assert re.search(r"sampled +every 2 frames of the file, clips of 1 s", out)
    assert re.search(r"smoothed +over 0\.75 s; segments shorter than 0\.9 s are dropped", out)
    names = [f"timeline.{end}" for end in ("csv", "json", "png", "srt")]
    assert sorted(path.name for path in output.iterdir()) == ["manifest.json", *names]
    result = json.loads((output / "timeline.json").read_text())
    assert (result["video"], result["method"]) == (str(video), "stream")
    assert (result["frame_rate"], result["stride"], result["predict_every"]) == (None, 2, 1)
    assert (result["clip_duration"], result["smooth"], result["min_length"]) == (1, 0.75, 0.9)
    assert (result["ignore"], result["warnings"]) == ([], [])
    assert result["duration"] == pytest.approx(8)
    rows = list(csv.DictReader((output / "timeline.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [segment["label"] for segment in result["segments"]]
    assert (rows[0]["start"], rows[-1]["end"]) == ("0.000", "8.000")
    assert (output / "timeline.srt").read_text().startswith("1\n00:00:00,000 --> ")
    assert (output / "timeline.png").stat().st_size > 10_000
    assert 0 <= result["metrics"]["frame_accuracy"] <= 1
    assert set(result["metrics"]["f1"]) == set(result["metrics"]["mean_ap"]) == {"0.1", "0.25", "0.5"}

    before = {path: path.read_bytes() for path in output.iterdir()}
    code, repeated, err = run(*words, "--ground-truth", tmp_path / "ground_truth.json")
    assert (code, repeated) == (0, out)
    assert err == f"xvit: 1 of 1 videos are finished already in {output}\n"
    assert "made with --ground-truth of hash" in cli_error(*words)
    assert before == {path: path.read_bytes() for path in output.iterdir()}

    code, out, err = run(*words[:4], "--threshold", 1)
    assert (code, err) == (0, "")
    assert "no score reaches the threshold" in out


@pytest.mark.usefixtures("no_drawing")
def test_several_videos_and_json(run, long_videos, checkpoint, tmp_path):
    words = ["timeline", long_videos, "--checkpoint", checkpoint, *LOW, "--stride", 2, "--predict-every", 4]
    words += ["--smooth", 2]
    options = ["--ground-truth", long_videos / "segments.json", "--output", tmp_path / "out", "--json"]
    code, out, err = run(*words, *options)
    assert (code, err.splitlines()) == (0, [f"left out: not a video: 1 ({long_videos / 'segments.json'})"])
    result = json.loads(out)
    assert [video["method"] for video in result["videos"]] == ["windows"] * 2
    assert result["failed"] == []
    each = [video["metrics"]["frame_accuracy"] for video in result["videos"]]
    assert result["metrics"]["frame_accuracy"] == pytest.approx(np.mean(each))
    assert result["metrics"]["videos"] == 2
    for video, name in zip(result["videos"], ("0000", "0001"), strict=True):
        assert json.loads((tmp_path / "out" / name / "timeline.json").read_text()) == video


@pytest.mark.usefixtures("no_drawing")
def test_videos_of_one_name_have_folders_of_their_own(run, long_videos, streamable, tmp_path):
    copies = [tmp_path / folder / name for folder, name in (("cam1", "a.mp4"), ("cam2", "a.mp4"), ("cam2", "a.mov"))]
    for number, copy in enumerate(copies):
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(long_videos / f"000{number % 2}.mp4", copy)
    output = tmp_path / "out"
    words = ["timeline", *copies, "--checkpoint", streamable, "--output", output]
    code, _, err = run(*words)
    assert code == 0
    assert err == f"xvit: the timeline of {copies[1]} goes to {output / 'cam2/a.mp4'}, because its name is taken\n"
    for copy, folder in zip(copies, ("cam1/a", "cam2/a.mp4", "cam2/a"), strict=True):
        assert json.loads((output / folder / "timeline.json").read_text())["video"] == str(copy)


@pytest.mark.usefixtures("no_drawing")
def test_a_stop_keeps_finished_videos_and_the_same_command_goes_on(
    run, cli_error, long_videos, streamable, tmp_path, monkeypatch
):
    videos = [long_videos / "0000.mp4", long_videos / "0001.mp4"]
    words = ["timeline", *videos, "--checkpoint", streamable, "--output", tmp_path / "out", *LOW]
    scored = []

    def score(model, path, **options):
        scored.append(os.path.basename(path))
        if scored == ["0000.mp4", "0001.mp4"]:
            raise KeyboardInterrupt
        return score_video(model, path, **options)

    monkeypatch.setattr("xvit.timeline.scoring.score_video", score)
    code, _, err = run(*words)
    assert (code, err) == (130, "xvit: stopped: 1 of 2 videos are done. Run the same command to go on.\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000", "manifest.json"]
    assert "made with --threshold 0.05, now 0.9; use the same" in cli_error(*words, "--threshold", 0.9)
    assert "made with --ignore unset, now moving_up" in cli_error(*words, "--ignore", "moving_up")
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, f"xvit: 1 of 2 videos are finished already in {tmp_path / 'out'}\n")
    assert scored == ["0000.mp4", "0001.mp4", "0001.mp4"]
    code, whole, err = run(*words[:5], *LOW, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(whole)


@pytest.mark.usefixtures("no_drawing")
def test_the_clock_of_the_model_is_used_and_said(run, long_videos, timed, tmp_path):
    video = long_videos / "0000.mp4"
    code, out, err = run("timeline", video, "--checkpoint", timed)
    assert (code, err) == (0, "")
    assert re.search(r"sampled +4 frames per second, clips of 1 s", out)
    [result] = json.loads(run("timeline", video, "--checkpoint", timed, "--json")[1])["videos"]
    assert (result["frame_rate"], result["stride"], result["clip_duration"]) == (8, 2, 1)
    [result] = json.loads(run("timeline", video, "--checkpoint", timed, "--stride", 4, "--json")[1])["videos"]
    assert (result["stride"], result["clip_duration"]) == (4, 2)
    assert (result["smooth"], result["min_length"]) == (1.5, 1.8)
    options = ["--smooth", 0, "--min-length", 0.3]
    [result] = json.loads(run("timeline", video, "--checkpoint", timed, *options, "--json")[1])["videos"]
    assert (result["smooth"], result["min_length"]) == (0, 0.3)
    slow = write_video(tmp_path / "slow.mp4", frames=8, fps=2)
    code, out, err = run("timeline", slow, "--checkpoint", timed)
    assert code == 0
    assert "2 frames per second" in err
    assert "1 of 1 videos were read with warnings" in err


@pytest.mark.usefixtures("no_drawing")
def test_ignored_classes_are_no_events(run, cli_error, long_videos, timed, tmp_path):
    words = ["timeline", long_videos / "0000.mp4", "--checkpoint", timed, "--threshold", 0.1, "--smooth", 0, "--json"]

    def labels(*options) -> list[str]:
        [result] = json.loads(run(*words, *options)[1])["videos"]
        found.append(result["ignore"])
        return [segment["label"] for segment in result["segments"]]

    found = []
    everything = labels("--ignore", "")
    assert "background" in everything
    for name in set(everything):
        assert name not in labels("--ignore", name)
    assert labels() == [label for label in everything if label != "background"]
    assert labels("--ignore", "background", "--ignore", "left", "--ignore", "right") == []
    assert found[0] == []
    assert found[-2:] == [["background"], ["background", "left", "right"]]
    error = cli_error(*words[:-1], "--ignore", "rihgt")
    assert error == 'ignore: class "rihgt" is not one of the 3 classes of the model. Did you mean "right"?'
    code, out, _ = run(*words[:-1], "--output", tmp_path / "out")
    assert code == 0
    assert re.search(r"ignored +background *\n", out)
    for name in ("timeline.csv", "timeline.srt"):
        assert "background" not in (tmp_path / "out" / name).read_text()


@pytest.mark.usefixtures("no_drawing")
def test_the_motion_gate_is_said_when_it_acts(run, half_still, timed, tmp_path):
    words = ["timeline", half_still, "--checkpoint", timed, "--threshold", 0.1, "--ignore", ""]
    code, out, err = run(*words, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "out" / "timeline.json").read_text())
    gate = result["motion_gate"]
    text = f"motion gate +1 stretch, {gate['seconds']:.1f} s without motion"
    assert re.search(rf"{text} \(--motion-threshold 0 turns it off\)", out)
    [stretch] = gate["stretches"]
    assert gate["seconds"] == pytest.approx(stretch["end"] - stretch["start"])
    assert gate["threshold"] == 5
    # Clips of 1 s that lie within the 4 s; each belongs to its middle.
    assert 4.1 < stretch["start"] < 4.6
    assert 7.4 < stretch["end"] < 7.9
    assert all(s["end"] <= stretch["start"] or s["start"] >= stretch["end"] for s in result["segments"])
    assert {s["end"] for s in result["segments"]} & {stretch["start"]}
    code, out, _ = run(*words, "--motion-threshold", 0)
    assert code == 0
    assert "motion gate" not in out
    [result] = json.loads(run(*words, "--motion-threshold", 0, "--json")[1])["videos"]
    assert result["motion_gate"] == {"threshold": 0, "seconds": 0, "stretches": []}
    assert any(s["start"] < stretch["start"] + 1 < s["end"] for s in result["segments"])


def test_unreadable_and_damaged_videos_do_not_stop_the_others(run, streamable, tmp_path):
    good = write_video(tmp_path / "good.avi", frames=60, kind="mjpeg-avi")
    half = truncate(tmp_path / "half.avi", good, fraction=0.5)
    (tmp_path / "text.avi").write_text("no video")
    words = ["timeline", good, tmp_path / "text.avi", half, "--checkpoint", streamable, *LOW]
    code, out, err = run(*words)
    assert code == 1
    assert out.count(str(good)) == 1
    assert str(half) in out
    lines = err.splitlines()
    assert lines[0] == "xvit: 2 of 3 videos could not be read:"
    assert "text.avi" in lines[1]
    assert "cut short" in lines[2]
    assert "scored as far as it can be read" in lines[2]
    result = json.loads(run(*words, "--json")[1])
    assert [video["video"] for video in result["videos"]] == [str(good), str(half)]
    assert "cut short" in result["videos"][1]["damage"]
    assert result["videos"][1]["duration"] < 2 < result["videos"][0]["duration"]
    assert len(result["failed"]) == 2

    code, out, _ = run("timeline", half, "--checkpoint", streamable, "--output", tmp_path / "out", *LOW)
    assert code == 1
    assert (tmp_path / "out" / "timeline.png").stat().st_size > 10_000


def test_invalid_arguments_and_input(cli_error, long_videos, checkpoint, streamable, tmp_path):
    words = ["timeline", long_videos / "0000.mp4", "--checkpoint"]
    assert cli_error(*words, checkpoint).startswith("--stride: missing")
    assert "motion_threshold=-1" in cli_error(*words, streamable, "--motion-threshold", -1)
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
