"""Files for challenges, against their definition; test sets without labels; several processes."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers.color_videos import CLASSES, described, make_model, write_video, write_videos
from xvit.cli.exit_codes import INTERRUPTED, USER_ERROR
from xvit.cli.main import fail
from xvit.data.annotations.samples import Sample
from xvit.evaluation.multi_view import ScoredVideos
from xvit.evaluation.submissions import write_submission
from xvit.utils.errors import XViTError


def scored(scores, labels) -> ScoredVideos:
    rows = len(next(iter(scores.values())))
    return ScoredVideos(
        samples=[Sample(path=f"{i}.mp4", label=None, id=f"P01_{i}") for i in range(rows)],
        scores=scores,
        class_names=labels,
        failures=[("bad", "bad.mp4", "no video")],
        temporal_views=1,
        spatial_views=1,
        seconds=0.0,
    )


def random_scores(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(shape[1])).softmax(-1)


def test_epic(tmp_path):
    verbs, nouns = random_scores(2, 12), random_scores(2, 15)
    labels = {"verb": [f"v{i}" for i in range(12)], "noun": [f"n{i}" for i in range(15)]}
    write_submission(tmp_path / "test.json", scored({"verb": verbs, "noun": nouns}, labels), supervision=(2, 3, 4))
    told = json.loads((tmp_path / "test.json").read_text())
    results = told.pop("results")
    expected = {"version": "0.2", "challenge": "action_recognition", "sls_pt": 2, "sls_tl": 3, "sls_td": 4}
    assert told == expected
    assert list(results) == ["P01_0", "P01_1"]
    for row, result in enumerate(results.values()):
        assert result["verb"] == pytest.approx({str(v): float(verbs[row, v]) for v in range(12)})
        assert result["noun"] == pytest.approx({str(n): float(nouns[row, n]) for n in range(15)})
        products = {f"{v},{n}": float(verbs[row, v] * nouns[row, n]) for v in range(12) for n in range(15)}
        best = sorted(products, key=lambda pair: -products[pair])[:100]
        assert result["action"] == pytest.approx({pair: products[pair] for pair in best})


def test_best_classes(tmp_path):
    values = random_scores(3, 7)
    names = [f'a "{i}", b' for i in range(7)]
    write_submission(tmp_path / "test.csv", scored({None: values}, names))
    with (tmp_path / "test.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["id", "class_1", "score_1"]
    for row, line in enumerate(rows):
        order = np.argsort(-values[row].numpy())[:5]
        assert line[1::2] == [names[place] for place in order]
        assert [float(score) for score in line[2::2]] == pytest.approx(values[row, order].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test.xml", {}, r"test.xml: expected a name that ends with .json .* or .csv"),
        ("test.json", {"supervision": (1, 2, 3)}, "needs the tasks verb and noun, not one without a name"),
    ],
)
def test_what_cannot_be_written(name, options, message, tmp_path):
    with pytest.raises(XViTError, match=message):
        write_submission(tmp_path / name, scored({None: random_scores(1, 3)}, list("abc")), **options)
    tasks = {"verb": random_scores(1, 3), "noun": random_scores(1, 3)}
    both = scored(tasks, {"verb": list("abc"), "noun": list("abc")})
    with pytest.raises(XViTError, match=r"supervision=\(\): expected EPIC's three levels"):
        write_submission(tmp_path / "test.json", both)
    with pytest.raises(XViTError, match="for a single task, not noun, verb"):
        write_submission(tmp_path / "test.csv", both)
    assert not list(tmp_path.iterdir())


def test_videos_without_labels(run, refused, tmp_path):
    """Something-Something's and EPIC's test lists: scored, not measured; one that is broken is left out and named."""
    described(make_model(), list(CLASSES)).save_pretrained(tmp_path / "model")
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", color=number, seed=number)
    (tmp_path / "videos" / "1.mp4").write_bytes(b"no video")
    (tmp_path / "test.json").write_text(json.dumps([{"id": str(number)} for number in range(3)]))
    words = ["eval", "--checkpoint", tmp_path / "model", "--data.root", tmp_path / "videos", "--data.num_workers", "0"]
    ssv2 = [*words, "--data.format", "ssv2", "--data.val", tmp_path / "test.json"]
    assert "no labels in it" in refused(*ssv2)
    code, out, err = run(*ssv2, "--submission", tmp_path / "out.csv", "--output", tmp_path / "result")
    assert code == 1
    assert "2 videos scored, 1x1 views; 1 could not be read" in out
    assert "they have no labels" in out
    assert "1.mp4" in err
    best = {row["id"]: row for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())}
    assert list(best) == ["0", "2"]
    said = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prediction"]) for row in said] == [(i, row["class_1"]) for i, row in best.items()]
    assert [row["score"] for row in said] == pytest.approx([float(row["score_1"]) for row in best.values()], abs=1e-6)
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert (values["expected"], values["videos"]) == (3, 2)
    assert [failure[:2] for failure in values["failures"]] == [["1", str(tmp_path / "videos" / "1.mp4")]]
    assert values["of"]["checkpoint"] == str(tmp_path / "model")
    assert "top1" not in values
    tasks = {"verb": [str(i) for i in range(97)], "noun": [str(i) for i in range(300)]}
    model = make_model({task: len(names) for task, names in tasks.items()})
    described(model, tasks).save_pretrained(tmp_path / "epic")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp"
    (tmp_path / "test.csv").write_text(f"{head}\nP01_7,P01,0,00:00:00.00,00:00:00.50\n")
    words[2] = tmp_path / "epic"
    epic = [*words, "--data.format", "epic", "--data.val", tmp_path / "test.csv", "--submission", tmp_path / "out.json"]
    assert "three levels" in refused(*epic)
    code, out, err = run(*epic, "--supervision", "2", "3", "4", "--json")
    assert code == 0, err
    assert json.loads((tmp_path / "out.json").read_text())["results"].keys() == {"P01_7"}


def test_two_processes_measure_what_one_does(tmp_path, run):
    """Seven videos, one of them broken, two views: the same numbers, the same videos, each once."""
    root = write_videos(tmp_path / "videos", train=1, val=2)
    (root / "val" / "red" / "2.mp4").write_bytes(b"no video")
    described(make_model(), list(CLASSES)).save_pretrained(tmp_path / "model")
    words = ["eval", "--checkpoint", tmp_path / "model", "--data.root", root, "--data.num_workers", "0"]
    words = [*map(str, words), "--eval.temporal_views", "2", "--eval.batch_size", "2", "--output"]
    code, _, err = run(*words, tmp_path / "one")
    assert (code, "1 of 7 videos could not be read" in err) == (1, True)
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xvit"]
    ended = subprocess.run([*two, *words, str(tmp_path / "two")], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("1 of 7 videos could not be read") == 1
    assert ended.stdout.count("of 6 videos") == 1
    one, both = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert (one["of"].pop("processes"), both["of"].pop("processes")) == (1, 2)
    for result in (one, both):
        del result["seconds"]
    assert one == both
    assert both["expected"] == 7
    rows = [
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [row["id"] for row in rows[0]] == [row["id"] for row in rows[1]]
    assert rows[0] == rows[1]


def test_what_only_another_process_meets_is_told(capsys, monkeypatch):
    """What all meet, the first one tells; the launcher ends the others while they wait."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", "1")
    assert fail("error: no such file", USER_ERROR) == USER_ERROR
    assert capsys.readouterr().err == "xvit: process 1: error: no such file\n"
    assert len(waited) == 1
    assert fail("stopped.", INTERRUPTED) == INTERRUPTED
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    fail("error: no such file", USER_ERROR)
    assert capsys.readouterr().err == "xvit: error: no such file\n"
    assert len(waited) == 1


def test_other_commands_refuse_several_processes(run, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert os.environ["WORLD_SIZE"] == "2"
    code, _, err = run("predict", tmp_path / "a.mp4", "--checkpoint", tmp_path)
    assert (code, err) == (2, "xvit: error: xvit predict runs in one process, without torchrun\n")
