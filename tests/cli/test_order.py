"""`xvit order`."""

import json
from dataclasses import replace

import pytest

from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata, write_video, write_videos
from xvit.checkpoint import EXPORTED

NO_WORKERS = ("--data.num_workers", "0")
KINDS = ["reversed", "two neighbours swapped", "shuffled", "held still"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A model of three colours, and videos of them."""
    folder = tmp_path_factory.mktemp("colours")
    with_metadata(make_model(), list(CLASSES)).save_pretrained(folder / "model")
    with_metadata(make_model(attention="spatial"), list(CLASSES)).save_pretrained(folder / "spatial")
    write_videos(folder / "videos", train=1, val=1)
    return folder


def test_the_bundled_model_uses_the_order(run, videos):
    words = ("order", "motion", "--data.root", videos, *NO_WORKERS)
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    rows = [line for line in out.splitlines() if line.strip().startswith(tuple(KINDS))]
    assert len(rows) == 4
    assert "of the 12 clips with a twin, " in out
    assert "The model uses the order of frames: reversing the clips costs" in out.splitlines()[-1]
    result = json.loads(run(*words, "--json")[1])
    task = result["tasks"]["label"]
    assert (result["checkpoint"], result["split"], result["clips"], result["peers"]) == ("motion", "val", 12, {})
    assert task["top1"]["as they are"]["share"] >= 10 / 12
    assert task["pair_accuracy"]["reversed"]["share"] <= 2 / 12
    assert task["reversed_as_twin"]["share"] >= 10 / 12
    low, high = task["top1"]["reversed"]["interval"]
    assert low <= task["top1"]["reversed"]["share"] <= high
    assert list(task["changes"]) == list(task["untrained"]) == KINDS
    assert task["conclusion"] == out.splitlines()[-1]
    other = json.loads(run(*words, "--seed", "1", "--json")[1])["tasks"]["label"]["changes"]
    assert other["reversed"] == task["changes"]["reversed"]
    assert other["shuffled"] != task["changes"]["shuffled"]


def test_a_model_that_ignores_the_order_with_pairs_and_peers(run, colours, tmp_path):
    pairs = tmp_path / "pairs.json"
    pairs.write_text('[["blue", "red"]]')
    words = ("order", colours / "spatial", "--data.root", colours / "videos", *NO_WORKERS, "--pairs", pairs, "--peers")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "of the 2 clips with a twin, " in out
    assert "This model ignores the order of frames: its logits change by at most" in out.splitlines()[-1]
    for peer in ("TimeSformer", "ViViT", "VideoMAE"):
        assert f"\n {peer} " in out
    assert list(json.loads(run(*words, "--json")[1])["peers"]["ViViT"]) == KINDS


def test_without_labels_the_logits_are_compared(run, colours, tmp_path):
    write_video(tmp_path / "a.mp4", color=1, seed=0)
    (tmp_path / "test.json").write_text('[{"id": "a"}]')
    words = ["--data.root", tmp_path, "--data.format", "ssv2", "--data.val", tmp_path / "test.json", *NO_WORKERS]
    code, out, _ = run("order", colours / "model", *words)
    assert code == 0
    assert "top-1" not in out
    assert "The order of frames changes this model's logits, by up to" in out.splitlines()[-1]


def test_unreadable_videos_are_listed(run, colours, tmp_path):
    root = write_videos(tmp_path / "videos", train=1, val=1)
    (root / "val" / "red" / "0.mp4").write_bytes(b"no video")
    code, out, err = run("order", colours / "model", "--data.root", root, *NO_WORKERS)
    assert code == 1
    assert "2 clips; changes of logits" in out
    assert "xvit: 1 of 3 videos could not be read:" in err
    assert "red/0.mp4" in err


def test_videos_of_the_training_are_noticed(run, colours, monkeypatch):
    monkeypatch.setattr("xvit.data.seen.count_seen", lambda provenance, samples: {"train": len(samples)})
    code, out, _ = run("order", colours / "model", "--data.root", colours / "videos", *NO_WORKERS)
    assert code == 0
    assert "3 of these 3 videos were trained on" in out


def test_several_tasks_have_a_table_each(run, tmp_path):
    tasks = {"verb": [str(i) for i in range(97)], "noun": [str(i) for i in range(300)]}
    model = make_model({task: len(names) for task, names in tasks.items()})
    with_metadata(model, tasks).save_pretrained(tmp_path / "epic")
    write_video(tmp_path / "videos" / "0.mp4", color=0, seed=0)
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"
    (tmp_path / "val.csv").write_text(f"{head}\nP01_7,P01,0,00:00:00.00,00:00:00.50,3,5\n")
    data = ["--data.root", tmp_path / "videos", "--data.format", "epic", "--data.val", tmp_path / "val.csv"]
    code, out, err = run("order", tmp_path / "epic", *data, *NO_WORKERS)
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == ["verb", "noun"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"blue": "red"}', "expected a list of pairs of class names"),
        ('[["blue", "red", "green"]]', "expected a list of pairs of class names"),
        ('[["blue", 3]]', "expected a list of pairs of class names"),
        ("blue red", "not readable as JSON"),
        ('[["bleu", "red"]]', 'class "bleu" is not one of the 3 classes of the model. Did you mean "blue"?'),
    ],
)
def test_mistakes_in_pairs(text, message, cli_error, colours, tmp_path):
    (tmp_path / "pairs.json").write_text(text)
    words = ("--data.root", colours / "videos", *NO_WORKERS, "--pairs", tmp_path / "pairs.json")
    assert message in cli_error("order", colours / "model", *words)


def test_models_that_cannot_be_measured(cli_error, colours, tmp_path):
    data = ("--data.root", colours / "videos", *NO_WORKERS)
    model = with_metadata(make_model(), list(CLASSES))
    model.clip_spec = replace(CLIP, num_frames=2)
    model.save_pretrained(tmp_path / "two")
    assert "num_frames=2: the order of frames matters from 3 on" in cli_error("order", tmp_path / "two", *data)
    model.clip_spec = replace(CLIP, num_frames=3)
    model.save_pretrained(tmp_path / "three")
    message = cli_error("order", tmp_path / "three", *data, "--peers")
    assert "--peers: clips of 3 frames: ViViT and VideoMAE take an even number" in message
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / EXPORTED).touch()
    assert "an exported model; this command needs the checkpoint itself" in cli_error(
        "order", tmp_path / "exported", *data
    )


def test_mistakes_in_numbers(cli_error, colours):
    data = ("order", colours / "model", "--data.root", colours / "videos")
    assert "expected a number, at least 1" in cli_error(*data, "--batch-size", "0")
    assert "expected a number, at least 0" in cli_error(*data, "--seed", "-1")
    assert "--data.root: missing" in cli_error("order", colours / "model")
