"""`xvit eval`, on test sets without labels too, and in several processes."""

import csv
import json
import subprocess
import sys

import pytest

from helpers import barcode_videos
from helpers.color_videos import CLASSES, make_model, with_metadata, write_video, write_videos
from xvit.data.synthetic import motion


def test_unreadable_videos_are_listed(run, checkpoint, tmp_path, bad_videos):
    for split in ("train", "val"):
        for name in motion.CLASSES[:2]:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            barcode_videos.write_video(tmp_path / "data" / split / name / "a.mp4")
    bad = tmp_path / "data" / "val" / motion.CLASSES[0] / "b.mp4"
    bad.write_bytes(bad_videos["text"].read_bytes())
    code, out, err = run("eval", "--checkpoint", checkpoint, "--data.root", tmp_path / "data", "--data.num_workers", 0)
    assert code == 1
    assert "of 2 videos" in out
    assert "1 of 3 videos could not be read" in err
    assert str(bad) in err


def test_videos_without_labels(run, cli_error, tmp_path):
    """Test lists of Something-Something and EPIC-KITCHENS are scored for a submission. Unreadable videos are listed."""
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "model")
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", color=number, seed=number)
    (tmp_path / "videos" / "1.mp4").write_bytes(b"no video")
    (tmp_path / "test.json").write_text(json.dumps([{"id": str(number)} for number in range(3)]))
    words = ["eval", "--checkpoint", tmp_path / "model", "--data.root", tmp_path / "videos", "--data.num_workers", "0"]
    ssv2 = [*words, "--data.format", "ssv2", "--data.val", tmp_path / "test.json"]
    assert "no labels" in cli_error(*ssv2)
    code, out, err = run(*ssv2, "--submission", tmp_path / "out.csv", "--output", tmp_path / "result")
    assert code == 1
    assert "2 videos scored, 1x1 views; 1 could not be read" in out
    assert "they have no labels" in out
    assert "1.mp4" in err
    best = {row["id"]: row for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())}
    assert list(best) == ["0", "2"]
    rows = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prediction"]) for row in rows] == [(i, row["class_1"]) for i, row in best.items()]
    assert [row["score"] for row in rows] == pytest.approx([float(row["score_1"]) for row in best.values()], abs=1e-6)
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert (values["expected"], values["videos"]) == (3, 2)
    assert [failure[:2] for failure in values["failures"]] == [["1", str(tmp_path / "videos" / "1.mp4")]]
    assert values["metadata"]["checkpoint"] == str(tmp_path / "model")
    assert "top1" not in values
    tasks = {"verb": [str(i) for i in range(97)], "noun": [str(i) for i in range(300)]}
    model = make_model({task: len(names) for task, names in tasks.items()})
    with_metadata(model, tasks).save_pretrained(tmp_path / "epic")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp"
    (tmp_path / "test.csv").write_text(f"{head}\nP01_7,P01,0,00:00:00.00,00:00:00.50\n")
    words[2] = tmp_path / "epic"
    epic = [*words, "--data.format", "epic", "--data.val", tmp_path / "test.csv", "--submission", tmp_path / "out.json"]
    assert "three levels" in cli_error(*epic)
    code, out, err = run(*epic, "--supervision", "2", "3", "4", "--json")
    assert code == 0, err
    assert json.loads((tmp_path / "out.json").read_text())["results"].keys() == {"P01_7"}


def test_two_processes_give_the_results_of_one(tmp_path, run):
    """Seven videos, one of them unreadable, two views: the same metrics, and the same videos, each once."""
    root = write_videos(tmp_path / "videos", train=1, val=2)
    (root / "val" / "red" / "2.mp4").write_bytes(b"no video")
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "model")
    words = ["eval", "--checkpoint", tmp_path / "model", "--data.root", root, "--data.num_workers", "0"]
    words = [*map(str, words), "--eval.temporal_views", "2", "--eval.batch_size", "2", "--output"]
    code, _, err = run(*words, tmp_path / "one")
    assert (code, "1 of 7 videos could not be read" in err) == (1, True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xvit"]
    ended = subprocess.run([*launch, *words, str(tmp_path / "two")], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("1 of 7 videos could not be read") == 1
    assert ended.stdout.count("of 6 videos") == 1
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert (one["metadata"].pop("processes"), two["metadata"].pop("processes")) == (1, 2)
    for result in (one, two):
        del result["seconds"]
    assert one == two
    assert two["expected"] == 7
    rows = [
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    assert rows[0] == rows[1]
