"""`xvit explain`."""

import json
import re

import av
import numpy as np
import pytest
from PIL import Image

from helpers.barcode_videos import write_frames, write_video

OUTPUTS = ["explanation.gif", "explanation.json", "explanation.mp4", "explanation.png"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "good.mp4")


def test_explain_prints_bars_and_writes_pictures(run, checkpoint, video, tmp_path):
    output = tmp_path / "why"
    code, out, err = run("explain", video, "--checkpoint", checkpoint, "--class", "moving_left", "--output", output)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{video}: moving_left"
    assert re.fullmatch(
        r"logit -?\d+\.\d\d, with the clip held still -?\d+\.\d\d: motion adds [+-]\d+\.\d\d\. "
        r"The patches add up to [+-]\d+\.\d\d \(error [\d.e-]+ %\)",
        lines[1],
    )
    assert sum(" s " in line and "│" in line for line in lines) == 4  # frames of the clip
    assert sorted(path.name for path in output.iterdir()) == OUTPUTS
    values = json.loads((output / "explanation.json").read_text())
    assert np.shape(values["patch_relevance"]) == (4, 3, 3)
    assert len(values["times"]) == len(values["frame_relevance"]) == 4
    total = values["logit"] - values["logit_still"]
    error = abs(sum(values["frame_relevance"]) - total) / max(abs(total), 1e-3)  # less than that is rounding alone
    assert values["completeness_error"] == pytest.approx(error)
    for line, value in zip(lines[2:6], values["frame_relevance"], strict=True):
        against, _, to_the_right = line.partition("│")
        assert ("█" in against, "█" in to_the_right) == (value < 0, value > 0), line

    with Image.open(output / "explanation.gif") as image:
        assert image.n_frames == 4
    with av.open(str(output / "explanation.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 4  # the last one is held

    code, out, _ = run("explain", video, "--checkpoint", checkpoint, "--class", "moving_left", "--json")
    assert code == 0
    assert json.loads(out) == values


def test_a_folder_of_frames_and_the_other_methods(run, checkpoint, tmp_path):
    frames = write_frames(tmp_path / "frames", frames=12)
    words = ["explain", frames, "--checkpoint", checkpoint, "--fps", 6, "--json"]
    for method in ("quick", "occlusion"):
        code, out, _ = run(*words, "--method", method, "--against", "receding", "--class", "moving_up")
        values = json.loads(out)
        assert (code, values["method"], values["against"]) == (0, method, "receding")
        assert max(values["times"]) <= 11 / 6
    code, out, _ = run(*words[:-1], "--method", "occlusion")
    assert "By occlusion, the patches need not add up to it" in out


def test_wrong_arguments(cli_error, checkpoint, video, bad_videos, tmp_path):
    words = ["explain", video, "--checkpoint", checkpoint]
    assert 'Did you mean "moving_left"?' in cli_error(*words, "--class", "moving_lefft")
    assert "--method='fast': expected one of integrated, quick, occlusion" in cli_error(*words, "--method", "fast")
    assert "single task" in cli_error(*words, "--task", "verb")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert str(taken) in cli_error(*words, "--output", taken)
    for path in bad_videos.values():
        message = cli_error("explain", path, "--checkpoint", checkpoint, "--output", tmp_path / "none")
        assert str(path) in message
    assert not (tmp_path / "none").exists()
