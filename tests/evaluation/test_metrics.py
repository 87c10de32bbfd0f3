"""The numbers of a test against counting by hand."""

import json
import math

import pytest
import torch

from helpers.color_videos import CLASSES, CLIP, described, make_model, write_video, write_videos
from xvit.config import DataConfig, EvalConfig
from xvit.data.annotations.samples import Sample, read_class_folders
from xvit.evaluation import Evaluation, TaskResult, evaluate, match_labels, run_metadata
from xvit.inference.predictor import Predictor
from xvit.utils.errors import XViTError


class Told:
    """Stands for a `Predictor`: gives the rows of a table one after the other, whatever the pixels."""

    multi_label = False

    def __init__(self, table, labels):
        self.table, self.class_names, self.clip_spec = table, labels, CLIP

    def scores(self, pixels):
        rows = {task: values[: len(pixels)] for task, values in self.table.items()}
        self.table = {task: values[len(pixels) :] for task, values in self.table.items()}
        return rows if isinstance(self.class_names, dict) else rows[None]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("videos") / "red.mp4", color=0, seed=1))


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    return str(path)


def make_table(videos: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((videos, classes), generator=torch.Generator().manual_seed(seed)).softmax(-1)


def rank(row: torch.Tensor, label: int) -> int:
    """How many classes have a higher score than the right one."""
    return sum(float(score) > float(row[label]) for score in row)


def test_the_numbers_are_those_counted_by_hand(video, bad):
    names = [f"c{i}" for i in range(8)]
    truths = [0, 1, 1, 2, 3, 5, 6, 7, 7, 7, 0]  # no video of class 4
    table = make_table(len(truths), 8)
    table[:4] = table[:4].index_put((torch.arange(4), torch.tensor(truths[:4])), torch.tensor(0.9))  # some right ones
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(truths)]
    samples.insert(3, Sample(path=bad, label=2, id="bad"))
    told = []
    result = evaluate(
        Told({None: table}, names),
        samples,
        eval_config=EvalConfig(batch_size=4),
        on_progress=lambda done, total: told.append((done, total)),
    )
    right = sum(rank(row, label) == 0 for row, label in zip(table, truths, strict=True))
    assert 4 <= right < len(truths)
    assert result.top1 == pytest.approx(right / 11)
    assert result.top1_of_all == pytest.approx(right / 12)
    assert result.top5 == pytest.approx(
        sum(rank(row, label) < 5 for row, label in zip(table, truths, strict=True)) / 11
    )
    assert result.loss == pytest.approx(
        sum(-math.log(row[label]) for row, label in zip(table, truths, strict=True)) / 11, rel=1e-5
    )
    confusion = [[0] * 8 for _ in range(8)]
    for row, label in zip(table, truths, strict=True):
        confusion[label][int(row.argmax())] += 1
    task = result.tasks[None]
    assert task.confusion == confusion
    shares = [confusion[i][i] / sum(confusion[i]) if sum(confusion[i]) else None for i in range(8)]
    assert task.per_class == dict(zip(names, shares, strict=True))
    assert task.mean_class_accuracy == pytest.approx(sum(share for share in shares if share is not None) / 7)
    assert (task.top1, task.top5) == pytest.approx((result.top1, result.top5))
    assert result.videos == 11
    assert [failure[:2] for failure in result.failures] == [("bad", bad)]
    assert told == [(4, 12), (8, 12), (12, 12)]
    assert [sample.id for sample in result.samples] == [sample.id for sample in samples if sample.id != "bad"]
    assert [sample.prediction for sample in result.samples] == [names[int(row.argmax())] for row in table]
    assert [sample.score for sample in result.samples] == pytest.approx(table.max(dim=1).values.tolist())
    assert "1 could not be read" in str(result)


def test_several_tasks_are_right_where_all_are(video):
    labels = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    truths = [{"verb": i % 2, "noun": i % 3} for i in range(9)]
    table = {"verb": make_table(9, 2, seed=1), "noun": make_table(9, 3, seed=2)}
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(truths)]
    result = evaluate(Told(table, labels), samples, eval_config=EvalConfig(batch_size=4))
    right = {task: [rank(table[task][i], truths[i][task]) == 0 for i in range(9)] for task in labels}
    both = [verb and noun for verb, noun in zip(right["verb"], right["noun"], strict=True)]
    assert result.top1 == pytest.approx(sum(both) / 9)
    joint = []  # place of the right verb and noun among the products of all verbs and nouns, as EPIC-KITCHENS counts
    for i, truth in enumerate(truths):
        products = {(v, n): table["verb"][i][v] * table["noun"][i][n] for v in range(2) for n in range(3)}
        joint.append(sum(float(p) > float(products[truth["verb"], truth["noun"]]) for p in products.values()))
    assert result.top5 == pytest.approx(sum(place < 5 for place in joint) / 9)
    assert 0 < result.top5 < 1
    for task in labels:
        assert result.tasks[task].top1 == pytest.approx(sum(right[task]) / 9)
    assert result.top1 < result.tasks["verb"].top1
    assert result.samples[0].truth == {"verb": "put", "noun": "cup"}
    assert result.to_dict()["tasks"].keys() == labels.keys()


def test_a_real_model_workers_and_files(tmp_path):
    data = read_class_folders(write_videos(tmp_path / "videos", train=1, val=2))
    predictor = Predictor(described(make_model(), data.classes))
    config = EvalConfig(temporal_views=2, spatial_views=3, batch_size=4)
    result = evaluate(predictor, data.val, eval_config=config)
    again = evaluate(predictor, data.val, eval_config=config, num_workers=1)
    assert again.samples == result.samples
    one_by_one = Predictor(described(make_model(), data.classes), temporal_views=2, spatial_views=3)
    for sample in result.samples:
        prediction = one_by_one(sample.path)
        assert sample.prediction == prediction.labels[0]
        assert sample.score == pytest.approx(prediction.scores[0], abs=1e-6)
        assert sample.truth == sample.id.split("/")[1]
    data_config = DataConfig(root="videos")
    result.save(tmp_path / "result", of=run_metadata(predictor, data_config, checkpoint="run/best"))
    of = json.loads((tmp_path / "result" / "evaluation.json").read_text())["of"]
    assert of["model"] == predictor.model.fingerprint()
    assert of["clip"]["num_frames"] == CLIP.num_frames
    assert of["data"]["root"] == "videos"
    assert (of["checkpoint"], of["precision"], of["device"], of["processes"]) == ("run/best", "float32", "cpu", 1)
    assert set(of["versions"]) == {"xvit", "torch", "timm"}
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert values["top1"] == result.top1
    assert values["tasks"]["label"]["confusion"] == result.tasks[None].confusion
    assert (values["temporal_views"], values["spatial_views"], values["videos"]) == (2, 3, 6)
    rows = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [sample.id for sample in data.val]
    for name in ("confusion.png", "per_class.png"):
        assert (tmp_path / "result" / name).stat().st_size > 1000


def test_what_cannot_be_evaluated(video, bad):
    predictor = Predictor(described(make_model(), list(CLASSES)))
    for label, said in ((None, "no label"), (3, "label 3, but the model has classes 0 to 2"), ({"verb": 0}, "tasks")):
        with pytest.raises(XViTError, match=said):
            evaluate(predictor, [Sample(path=video, label=label, id="v")], eval_config=EvalConfig())
    with pytest.raises(XViTError, match=r"none of 1 videos could be read; the first: .*notes\.mp4"):
        evaluate(predictor, [Sample(path=bad, label=0, id="v")], eval_config=EvalConfig())


def test_labels_are_matched_by_name():
    samples = [Sample(path="a.mp4", label=0, id="a"), Sample(path="b.mp4", label=1, id="b")]
    matched = match_labels(samples, ["red", "blue"], list(CLASSES))
    assert [CLASSES[sample.label] for sample in matched] == ["red", "blue"]
    with pytest.raises(XViTError, match=r'class "rad" is not one of the 3 .*\. Did you mean "red"\?'):
        match_labels(samples, ["rad", "blue"], list(CLASSES))
    with pytest.raises(XViTError, match="a model of the tasks verb on videos with labels of one without a name"):
        match_labels(samples, ["red", "blue"], {"verb": ["red"]})


def test_an_evaluation_without_failures_prints_one_line():
    task = TaskResult(class_names=["a"], top1=1.0, top5=1.0, per_class={"a": 1.0}, confusion=[[4]])
    result = Evaluation(
        top1=0.5, top5=1.0, top1_of_all=0.5, loss=0.1, tasks={None: task}, expected=4, videos=4,
        failures=[], temporal_views=1, spatial_views=3, seconds=2.0, samples=[],
    )  # fmt: skip
    assert str(result) == "top-1 50.00 %, top-5 100.00 % of 4 videos, 1x3 views, 2.0 s"
