"""`xvit calibrate`, and what the other commands do with its result."""

import json
import shutil

import numpy as np
import pytest

from helpers.calibration import with_calibration
from helpers.color_videos import CLASSES, make_config, make_model, with_metadata, write_video, write_videos
from xvit import XViT
from xvit.checkpoint.format import store_calibration
from xvit.config import ClipSpec
from xvit.data.synthetic.dataset import encode_video
from xvit.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learnt three colours, a folder of other videos of them, and one of noise."""
    root = tmp_path_factory.mktemp("colours")
    write_videos(root / "videos", train=6, val=2)
    result = fit(make_config(root / "videos", epochs=4), root / "run")
    for label, name in enumerate(CLASSES):
        for split in ("train", "val"):
            for index in range(8):
                seed = 5000 + 100 * label + 50 * (split == "val") + index
                write_video(root / "others" / split / name / f"{index}.mp4", color=2 - label, seed=seed)
    rng = np.random.default_rng(0)
    (root / "noise").mkdir()
    for index in range(3):
        encode_video(rng.integers(0, 256, (6, 24, 32, 3), dtype=np.uint8), root / "noise" / f"{index}.mp4")
    return result.last, root


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "model")


def words_for(model, root, *options):
    return ["calibrate", model, "--data.root", root / "others", "--data.num_workers", 0, "--keep", 0.8, *options]


def test_calibrate_then_predict(run, trained, model, tmp_path):
    root, weights = trained[1], (model / "model.safetensors").read_bytes()
    code, out, err = run(*words_for(model, root, "--unknown", root / "noise", "--output", tmp_path / "out"))
    assert (code, err) == (0, "")
    stored = json.loads((model / "config.json").read_text())["calibration"]
    assert (stored["keep"], stored["videos"]) == (0.8, 24)
    assert (model / "model.safetensors").read_bytes() == weights
    assert f"temperature         {stored['temperature']:.3f}" in out
    assert "24, and 3 of no class" in out
    assert f"stored in {model / 'config.json'}" in out
    values = json.loads((tmp_path / "out" / "calibration.json").read_text())
    task = values["tasks"]["label"]
    assert {name: task[name] for name in stored} == stored
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"calibration.json", "reliability.png", "rejection.png"}
    assert (
        json.loads(run(*words_for(model, root, "--unknown", root / "noise", "--json"))[1])["tasks"] == values["tasks"]
    )

    predictions = json.loads(run("predict", root / "others" / "val", "--checkpoint", model, "--json")[1])["predictions"]
    assert sum(prediction["known"] for prediction in predictions) == round(24 * task["coverage"])
    rejected = json.loads(run("predict", root / "noise", "--checkpoint", model, "--json")[1])["predictions"]
    assert sum(not prediction["known"] for prediction in rejected) == round(3 * task["unknown_rejected"])
    assert f"temperature {stored['temperature']:.3g}" in run("info", "--checkpoint", model)[1]
    assert json.loads(run("info", "--checkpoint", model, "--json")[1])["calibration"] == stored

    words = ["eval", "--checkpoint", model, "--data.root", root / "others", "--data.num_workers", 0]
    result = json.loads(run(*words, "--json")[1])
    assert result["tasks"]["label"]["coverage"] == pytest.approx(task["coverage"])
    assert result["calibration_error"] == pytest.approx(task["calibration_error"], abs=1e-5)
    accepted = f"{100 * task['coverage']:.1f} % of the videos are accepted as one of the classes, of which "
    assert f"calibration error {100 * result['calibration_error']:.2f} %; {accepted}" in run(*words)[1]


def test_none_of_these_in_the_terminal(run, model, trained):
    """And in a stream: as the reason for which a frame has no label."""
    reject_everything(model)
    video = next((trained[1] / "noise").iterdir())
    code, out, _ = run("predict", video, "--checkpoint", model, "--top-k", 2)
    assert code == 0
    assert out.count("none of these (nearest: ") == 1
    prediction = json.loads(run("predict", video, "--checkpoint", model, "--json")[1])["predictions"][0]
    assert prediction["known"] is False
    assert f"none of these (nearest: {prediction['labels'][0]})" in out


def test_a_stream_and_a_timeline_have_no_label(run, tmp_path):
    model = with_metadata(make_model(temporal_position="head"), list(CLASSES))
    model.clip_spec = ClipSpec(**{**vars(model.clip_spec), "sampling": "strided", "frame_rate": 8.0})
    model.save_pretrained(tmp_path / "live")
    video = write_video(tmp_path / "video.mp4", color=1, seed=3)
    words = ["stream", video, "--checkpoint", tmp_path / "live", "--motion-threshold", 0]
    before = [json.loads(line) for line in run(*words, "--json")[1].splitlines()[:-1]]
    assert all(prediction["label"] and "known" not in prediction for prediction in before)
    reject_everything(tmp_path / "live")
    after = [json.loads(line) for line in run(*words, "--json")[1].splitlines()[:-1]]
    assert [(p["label"], p["known"]) for p in after] == [(None, False)] * len(before)
    assert [p["labels"] for p in after] == [p["labels"] for p in before]
    assert ": none of these: " in run(*words, "--all")[1]
    words = ["timeline", video, "--checkpoint", tmp_path / "live", "--motion-threshold", 0, "--threshold", 0, "--json"]
    assert json.loads(run(*words)[1])["videos"][0]["segments"] == []


def reject_everything(directory) -> None:
    """Store a calibration by which nothing is one of the classes."""
    store_calibration(directory, with_calibration(XViT.from_pretrained(directory), threshold=1e3).calibration)


def test_mistakes(run, cli_error, model, trained, tmp_path):
    root = trained[1]
    before = (model / "config.json").read_bytes()
    message = cli_error(*words_for(model, root), "--keep", 0.99)
    assert "correctly classified videos: expected at least 100, of which keep=0.99 leaves out one" in message
    assert "keep=0.0: expected a number, between 0.001 and 1" in cli_error(*words_for(model, root), "--keep", 0)
    assert "no test videos; hold some out" in cli_error(*words_for(model, root), "--split", "test")
    many = with_metadata(make_model(multi_label=True), list(CLASSES))
    many.save_pretrained(tmp_path / "many")
    assert "only models with one label per video can be calibrated" in cli_error(*words_for(tmp_path / "many", root))
    assert (model / "config.json").read_bytes() == before


def test_unreadable_videos_are_listed_and_trained_ones_noticed(run, model, trained, tmp_path):
    root = shutil.copytree(trained[1] / "others", tmp_path / "others")
    (root / "val" / "red" / "0.mp4").write_text("not a video")
    words = ["calibrate", model, "--data.root", root, "--data.num_workers", 0, "--keep", 0.8]
    code, out, err = run(*words)
    assert code == 1
    assert "1 of 24 videos could not be read" in err
    assert "stored in" in out
    assert "were trained on" not in out
    videos = trained[1] / "videos"
    swapped = tmp_path / "swapped"
    shutil.copytree(videos / "train", swapped / "val")
    shutil.copytree(videos / "val", swapped / "train")
    code, out, _ = run("calibrate", model, "--data.root", swapped, "--data.num_workers", 0, "--keep", 0.8)
    assert code == 0
    assert "18 of these 18 videos were trained on: calibrate with videos that were not" in out
