"""The commands on a multi-label data set, from the list of videos to predictions."""

import json

import pytest
import yaml

from helpers.color_videos import CLIP, MODEL, write_video
from xvit.config import to_dict
from xvit.inference import Predictor


def test_train_eval_and_predict(run, refused, tmp_path):
    """Each video has the class of its bright colour, and two of the three colours also have the class "warm"."""
    lines = []
    for number in range(12):
        write_video(tmp_path / "videos" / f"{number}.mp4", color=number % 3, seed=number)
        lines.append(f"{number}.mp4 {['blue', 'green', 'red'][2 - number % 3]}{' warm' * (number % 3 < 2)}")
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = {"root": str(tmp_path / "videos"), "format": "list", "multi_label": True, "num_workers": 0}
    data |= {"train": str(tmp_path / "list.txt"), "val": str(tmp_path / "list.txt")}
    recipe = {"model": to_dict(MODEL), "clip": to_dict(CLIP), "data": data}
    recipe |= {"train": {"epochs": 6, "batch_size": 4, "lr": 0.01, "warmup_epochs": 1}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = run("train", "--config", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert code == 0, err
    assert "mAP" in out
    assert "top-1" not in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(row["map"] for row in rows if row["stage"] == "eval")
    words = ["eval", "--checkpoint", tmp_path / "run" / "best", "--data.root", data["root"], "--data.format", "list"]
    words += ["--data.val", data["val"], "--data.multi_label", "true"]
    code, out, err = run(*words, "--output", tmp_path / "result", "--json")
    assert code == 0, err
    assert json.loads(out)["mean_average_precision"] == pytest.approx(best)
    assert best > 0.6  # about 0.4 by chance
    assert (tmp_path / "result" / "per_class.png").exists()
    results = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert results[0]["ground_truth"] == ["red", "warm"]
    prediction = Predictor(tmp_path / "run" / "best")(tmp_path / "videos" / "0.mp4")
    scores = dict(zip(prediction.labels, prediction.scores, strict=True))
    assert scores == pytest.approx(results[0]["scores"], abs=1e-5)
    code, out, err = run(*words)
    assert "average precision" in out
    assert "mAP" in out
    message = refused("timeline", tmp_path / "videos" / "0.mp4", "--checkpoint", tmp_path / "run" / "best")
    assert "a multi-label model" in message
    (tmp_path / "list.txt").write_text("0.mp4 red\n1.mp4 green\n")
    assert "the model predicts several labels per video: set data.multi_label=true" in refused(*words[:-2])
