"""`xvit eval`, on test sets without labels too, and in several processes."""

import csv
import json
import shutil

import pytest
import yaml

from helpers import barcode_videos
from helpers.color_videos import CLASSES, CLIP, MODEL, make_model, with_metadata, write_video, write_videos
from helpers.warm_processes import run_two
from xvit.config import to_dict
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


def test_warnings_are_listed_and_counted(run, checkpoint, tmp_path):
    for number in range(22):
        folder = tmp_path / "data" / "val" / motion.CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        barcode_videos.write_video(folder / f"{number}.mp4", frames=30 if number == 1 else 2)
    shutil.copytree(tmp_path / "data" / "val", tmp_path / "data" / "train")
    words = ["eval", "--checkpoint", checkpoint, "--data.root", tmp_path / "data", "--data.num_workers", 0]
    (tmp_path / "result").mkdir()  # it may be a mount point, which cannot be replaced
    folder = (tmp_path / "result").stat().st_ino
    code, out, err = run(*words, "--output", tmp_path / "result")
    assert (tmp_path / "result").stat().st_ino == folder
    assert code == 0
    assert "of 22 videos, 1 x 1 views (temporal x spatial); 21 were read with warnings" in out
    lines = err.splitlines()
    assert lines[0] == "xvit: 21 of 22 videos were read with warnings:"
    assert sum("2 frames, fewer than the 4 of a clip" in line for line in lines) == 20
    assert lines[-1] == "  and 1 more; --json lists all"
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert len(values["warnings"]) == 21
    assert not any(path.endswith("/1.mp4") for _, path, _ in values["warnings"])
    assert json.loads(run(*words, "--json")[1])["warnings"] == values["warnings"]


def test_the_third_split(run, cli_error, tmp_path):
    """Measured only if asked for, from a folder or as a part of the class folders."""
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "model")
    root = write_videos(tmp_path / "videos", train=4, val=1)
    words = ["eval", "--checkpoint", tmp_path / "model", "--data.num_workers", "0", "--json", "--data.root"]
    assert "no test videos; hold some out: a folder test" in cli_error(*words, root, "--split", "test")
    for number in range(4):
        write_video(root / "test" / "red" / f"{number}.mp4", color=0, seed=50 + number)
    for split, videos in (("val", 3), ("test", 4)):
        result = json.loads(run(*words, root, "--split", split)[1])
        assert (result["split"], result["videos"]) == (split, videos)
    assert json.loads(run(*words, root)[1])["videos"] == 3
    shutil.rmtree(root / "test")
    shutil.rmtree(root / "val")
    parts = ["--data.val_fraction", "0.25", "--data.test_fraction", "0.5", "--split", "test"]
    assert json.loads(run(*words, root / "train", *parts)[1])["videos"] == 6
    assert json.loads(run(*words, root / "train", *parts[:-1], "val")[1])["videos"] == 3
    assert "expected val or test" in cli_error(*words, root, "--split", "train")


def test_videos_of_the_models_own_training_are_noticed(run, tmp_path):
    root = write_videos(tmp_path / "videos", train=2, val=1)
    words = ["--data.root", root, "--data.num_workers", "0"]
    recipe = {"model": to_dict(MODEL), "clip": to_dict(CLIP), "train": {"epochs": 2, "warmup_epochs": 0}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, _ = run("train", "--config", tmp_path / "recipe.yaml", "--output", tmp_path / "run", *words)
    assert code == 0
    assert "chosen by its result on the validation videos" in out
    best, last = tmp_path / "run" / "best", tmp_path / "run" / "last"
    code, out, _ = run("eval", "--checkpoint", best, *words, "--output", tmp_path / "result")
    assert code == 0
    assert "3 of these 3 videos chose this checkpoint" in out
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert values["metadata"]["seen_in_training"] == {"val": 3}
    code, out, _ = run("eval", "--checkpoint", last, *words)
    assert "of these 3 videos" not in out  # nothing chose it
    moved = shutil.copytree(root / "train", tmp_path / "moved" / "val")
    shutil.copytree(root / "val", tmp_path / "moved" / "train")
    code, out, _ = run("eval", "--checkpoint", last, "--data.root", moved.parent, "--data.num_workers", "0")
    assert "6 of these 6 videos were trained on" in out
    write_videos(tmp_path / "new", train=1, val=1)
    shutil.rmtree(tmp_path / "new" / "val")
    for name in CLASSES:
        write_video(tmp_path / "new" / "val" / name / "0.mp4", color=0, seed=999)
    code, out, _ = run("eval", "--checkpoint", best, "--data.root", tmp_path / "new", "--data.num_workers", "0")
    assert code == 0
    assert "of these" not in out


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
    assert "2 videos scored, 1 x 1 views (temporal x spatial); 1 could not be read" in out
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
    codes, out, err = run_two(*words, tmp_path / "two")
    assert codes == [1, 1], err
    assert err.count("1 of 7 videos could not be read") == 1
    assert out.count("of 6 videos") == 1
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
