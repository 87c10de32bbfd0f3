"""Metrics of an evaluation against naive counting."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import barcode_videos
from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata, write_video, write_videos
from xvit.config import SINGLE_TASK, DataConfig, EvalConfig
from xvit.data.annotations.class_folders import read_class_folders
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.evaluation import Evaluation, SampleResult, TaskResult, evaluate, metrics, run_metadata, wilson_interval
from xvit.evaluation.calibration import Reliability
from xvit.evaluation.scoring import score_videos
from xvit.inference.frame_stream import ClipScores
from xvit.inference.predictor import Predictor
from xvit.utils.errors import XViTError


class TablePredictor:
    """Stands for a `Predictor`: returns the rows of a table, one after the other, whatever the pixels."""

    multi_label, dataset_class = False, VideoDataset

    def __init__(self, table, class_names):
        self.table, self.class_names, self.clip_spec = table, class_names, CLIP

    def predict_scores(self, pixels):
        rows = {task: values[: len(pixels)].numpy() for task, values in self.table.items()}
        self.table = {task: values[len(pixels) :] for task, values in self.table.items()}
        return ClipScores(rows, {})


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


def naive_rank(row: torch.Tensor, label: int) -> int:
    """Number of classes with a higher score than the true class."""
    return sum(float(score) > float(row[label]) for score in row)


def test_metrics_equal_naive_counts(video, bad):
    names = [f"c{i}" for i in range(8)]
    labels = [0, 1, 1, 2, 3, 5, 6, 7, 7, 7, 0]  # no video of class 4
    table = make_table(len(labels), 8)
    table[:4] = table[:4].index_put((torch.arange(4), torch.tensor(labels[:4])), torch.tensor(0.9))  # some correct ones
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(labels)]
    samples.insert(3, Sample(path=bad, label=2, id="bad"))
    progress = []
    result = evaluate(
        TablePredictor({SINGLE_TASK: table}, names),
        samples,
        eval_config=EvalConfig(batch_size=4),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    ranks = [naive_rank(row, label) for row, label in zip(table, labels, strict=True)]
    correct = sum(rank == 0 for rank in ranks)
    assert 4 <= correct < len(labels)
    assert result.top1 == pytest.approx(correct / 11)
    assert result.top1_of_all == pytest.approx(correct / 12)
    assert result.top5 == pytest.approx(sum(rank < 5 for rank in ranks) / 11)
    losses = [-math.log(row[label]) for row, label in zip(table, labels, strict=True)]
    assert result.loss == pytest.approx(sum(losses) / 11, rel=1e-5)
    confusion = [[0] * 8 for _ in range(8)]
    for row, label in zip(table, labels, strict=True):
        confusion[label][int(row.argmax())] += 1
    task = result.tasks[SINGLE_TASK]
    assert task.confusion == confusion
    per_class = [confusion[i][i] / sum(confusion[i]) if sum(confusion[i]) else None for i in range(8)]
    assert task.per_class == dict(zip(names, per_class, strict=True))
    assert task.mean_class_accuracy == pytest.approx(sum(value for value in per_class if value is not None) / 7)
    assert (task.top1, task.top5) == pytest.approx((result.top1, result.top5))
    assert result.videos == 11
    assert [failure[:2] for failure in result.failures] == [("bad", bad)]
    assert progress == [(4, 12), (8, 12), (12, 12)]
    assert [sample.id for sample in result.samples] == [sample.id for sample in samples if sample.id != "bad"]
    assert [sample.prediction for sample in result.samples] == [names[int(row.argmax())] for row in table]
    assert [sample.score for sample in result.samples] == pytest.approx(table.max(dim=1).values.tolist())
    assert f"1 could not be read: counted as wrong, top-1 {100 * correct / 12:.2f} %" in str(result)


def test_of_equal_scores_the_first_class_ranks_higher(video):
    """As for `argmax`, so that top-1, top-5 and the predicted classes agree. A score of 0 has a finite loss."""
    table = torch.randint(0, 3, (40, 7), generator=torch.Generator().manual_seed(0)) / 4
    labels = [i % 7 for i in range(40)]
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(labels)]
    names = [f"c{i}" for i in range(7)]
    result = evaluate(TablePredictor({SINGLE_TASK: table}, names), samples, eval_config=EvalConfig(batch_size=40))
    order = [sorted(range(7), key=lambda c, row=row: (-float(row[c]), c)) for row in table]
    ranks = [classes.index(label) for classes, label in zip(order, labels, strict=True)]
    assert result.top1 == pytest.approx(sum(rank == 0 for rank in ranks) / 40)
    assert result.top5 == pytest.approx(sum(rank < 5 for rank in ranks) / 40)
    assert [sample.prediction for sample in result.samples] == [names[classes[0]] for classes in order]
    losses = [-math.log(max(float(row[label]), 1e-12)) for row, label in zip(table, labels, strict=True)]
    assert result.loss == pytest.approx(sum(losses) / 40, rel=1e-5)


def test_options_of_an_evaluation_reach_the_reading_of_videos(video, monkeypatch):
    config, received = EvalConfig(batch_size=2), {}
    predictor = TablePredictor({SINGLE_TASK: make_table(2, 2)}, ["a", "b"])
    samples = [Sample(path=video, label=0, id="v")]

    def record(*args, **options):
        received.update(options, args=args)
        return score_videos(*args, **options)

    monkeypatch.setattr(metrics, "score_videos", record)
    options = {"eval_config": config, "num_workers": 0, "decode_timeout": 7.5, "on_progress": lambda done, total: None}
    evaluate(predictor, samples, **options)
    assert received == {"args": (predictor, samples), **options}
    evaluate(predictor, samples, eval_config=config)
    defaults = {"num_workers": 0, "decode_timeout": DataConfig.decode_timeout, "on_progress": None}
    assert received == {"args": (predictor, samples), "eval_config": config, **defaults}


def test_each_task_has_its_plots(video, tmp_path, monkeypatch):
    titles, plotted = {}, {}
    monkeypatch.setattr(
        metrics,
        "plot_confusion_matrix",
        lambda counts, names, path, title: titles.update({path: (counts, names, title)}),
    )
    monkeypatch.setattr(metrics, "plot_per_class", lambda series, path: plotted.update({path: series}))
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    table = {"verb": torch.tensor([[0.9, 0.1]] * 4), "noun": torch.tensor([[0.1, 0.8, 0.1]] * 4)}
    samples = [Sample(path=video, label={"verb": i % 2, "noun": min(i, 1)}, id=f"v{i}") for i in range(4)]
    evaluate(TablePredictor(table, names), samples, eval_config=EvalConfig()).plot(tmp_path)
    assert titles == {
        tmp_path / "confusion_verb.png": ([[2, 0], [2, 0]], names["verb"], "top-1 50.0 %"),
        tmp_path / "confusion_noun.png": ([[0, 1, 0], [0, 3, 0], [0, 0, 0]], names["noun"], "top-1 75.0 %"),
    }
    assert plotted == {
        tmp_path / "per_class_verb.png": {"verb": {"put": 1.0, "take": 0.0}},
        tmp_path / "per_class_noun.png": {"noun": {"cup": 0.0, "lid": 1.0}},  # no video of class pan
    }
    titles.clear()
    plotted.clear()
    samples = [replace(sample, label=0) for sample in samples[:1]]
    evaluate(TablePredictor({SINGLE_TASK: table["verb"]}, names["verb"]), samples, eval_config=EvalConfig()).plot(
        tmp_path
    )
    assert titles == {tmp_path / "confusion.png": ([[1, 0], [0, 0]], names["verb"], "top-1 100.0 %")}
    assert plotted == {tmp_path / "per_class.png": {"accuracy": {"put": 1.0}}}


def test_with_several_tasks_all_must_be_correct(video):
    class_names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    labels = [{"verb": i % 2, "noun": i % 3} for i in range(9)]
    table = {"verb": make_table(9, 2, seed=1), "noun": make_table(9, 3, seed=2)}
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(labels)]
    result = evaluate(TablePredictor(table, class_names), samples, eval_config=EvalConfig(batch_size=4))
    correct = {task: [naive_rank(table[task][i], labels[i][task]) == 0 for i in range(9)] for task in class_names}
    both = [verb and noun for verb, noun in zip(correct["verb"], correct["noun"], strict=True)]
    assert result.top1 == pytest.approx(sum(both) / 9)
    ranks = []  # of the true verb and noun among the products of all verbs and nouns, as EPIC-KITCHENS counts
    for i, label in enumerate(labels):
        products = {(v, n): table["verb"][i][v] * table["noun"][i][n] for v in range(2) for n in range(3)}
        ranks.append(sum(float(p) > float(products[label["verb"], label["noun"]]) for p in products.values()))
    assert result.top5 == pytest.approx(sum(rank < 5 for rank in ranks) / 9)
    assert 0 < result.top5 < 1
    for task in class_names:
        assert result.tasks[task].top1 == pytest.approx(sum(correct[task]) / 9)
    assert result.top1 < result.tasks["verb"].top1
    assert result.samples[0].ground_truth == {"verb": "put", "noun": "cup"}
    assert result.to_dict()["tasks"].keys() == class_names.keys()


def test_a_model_with_workers_and_the_files_written(tmp_path):
    data = read_class_folders(write_videos(tmp_path / "videos", train=1, val=2))
    predictor = Predictor(with_metadata(make_model(), data.class_names))
    config = EvalConfig(temporal_views=2, spatial_views=3, batch_size=4)
    result = evaluate(predictor, data.val, eval_config=config)
    again = evaluate(predictor, data.val, eval_config=config, num_workers=1)
    assert again.samples == result.samples
    one_by_one = Predictor(with_metadata(make_model(), data.class_names), temporal_views=2, spatial_views=3)
    for sample in result.samples:
        prediction = one_by_one(sample.path)
        assert sample.prediction == prediction.labels[0]
        assert sample.score == pytest.approx(prediction.scores[0], abs=1e-6)
        assert sample.ground_truth == sample.id.split("/")[1]
    data_config = DataConfig(root="videos")
    result.save(tmp_path / "result", metadata=run_metadata(predictor, data_config, checkpoint="run/best"))
    values = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    metadata = values["metadata"]
    assert run_metadata(predictor, data_config) == metadata | {"checkpoint": ""}
    assert metadata["model"] == predictor.model_hash()
    assert metadata["clip"]["num_frames"] == CLIP.num_frames
    assert metadata["data"]["root"] == "videos"
    assert (metadata["checkpoint"], metadata["precision"]) == ("run/best", "float32")
    assert (metadata["device"], metadata["processes"]) == ("cpu", 1)
    assert set(metadata["versions"]) == {"xvit", "torch", "timm", "av"}
    assert values["top1"] == result.top1
    assert values["tasks"]["label"]["confusion"] == result.tasks[SINGLE_TASK].confusion
    assert values["tasks"]["label"]["mean_class_accuracy"] == result.tasks[SINGLE_TASK].mean_class_accuracy
    assert (values["temporal_views"], values["spatial_views"], values["videos"]) == (2, 3, 6)
    rows = [json.loads(line) for line in (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [sample.id for sample in data.val]
    assert [row["ground_truth"] for row in rows] == [sample.ground_truth for sample in result.samples]
    for name in ("confusion.png", "per_class.png"):
        assert (tmp_path / "result" / name).stat().st_size > 1000


def test_invalid_labels_and_unreadable_videos(video, bad):
    predictor = Predictor(with_metadata(make_model(), list(CLASSES)))
    for label, message in (
        (None, "no label"),
        (3, "label 3, but the model has the classes 0 to 2"),
        ({"verb": 0}, r"labels for the tasks \['verb'\], the model has the tasks"),
        ((0, 1), r"label \(0, 1\), but the model predicts one label per video: set data.multi_label=false"),
    ):
        with pytest.raises(XViTError, match=message):
            evaluate(predictor, [Sample(path=video, label=label, id="v")], eval_config=EvalConfig())
    tasks = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    samples = [Sample(path=video, label={"verb": 1, "noun": noun}, id=f"v{noun}") for noun in (2, 3)]
    with pytest.raises(XViTError, match=r"v3: label 3, but the model has the classes 0 to 2$"):
        metrics.check_labels(samples, tasks, multi_label=False)
    message = "v: label 0, but the model predicts several labels per video: set data.multi_label=true"
    with pytest.raises(XViTError, match=message):
        metrics.check_labels([Sample(path=video, label=0, id="v")], list(CLASSES), multi_label=True)
    with pytest.raises(XViTError, match=r"none of 1 videos could be read; the first: .*notes\.mp4"):
        evaluate(predictor, [Sample(path=bad, label=0, id="v")], eval_config=EvalConfig())


ONE_BIN = Reliability(videos=[4], score=[1.0], accuracy=[1.0])


def test_an_evaluation_without_failures_prints_one_line():
    task = TaskResult(
        class_names=["a"], top1=1.0, top5=None, per_class={"a": 1.0}, confusion=[[4]], reliability=ONE_BIN
    )
    sample = SampleResult(id="a", path="a.mp4", ground_truth="a", prediction="a", score=1.0)
    result = Evaluation(
        top1=0.5, top5=None, top1_of_all=0.5, loss=0.1, tasks={SINGLE_TASK: task}, samples=[sample] * 4,
        failures=[], temporal_views=1, spatial_views=3, seconds=2.0,
    )  # fmt: skip
    assert (result.videos, result.expected) == (4, 4)
    top1, views = "top-1 50.00 % (95 % interval 15.0 to 85.0 %)", "1 x 3 views (temporal x spatial)"
    assert str(result) == f"{top1} of 4 videos, {views}, 2.0 s"
    assert str(replace(result, top5=0.75)) == f"{top1}, top-5 75.00 % of 4 videos, {views}, 2.0 s"


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 12])
def test_top_5_is_left_out_where_it_is_always_1(video, classes):
    names, labels = [f"c{i}" for i in range(classes)], [i % classes for i in range(7)]
    samples = [Sample(path=video, label=label, id=f"v{i}") for i, label in enumerate(labels)]
    table = make_table(7, classes)
    result = evaluate(TablePredictor({SINGLE_TASK: table}, names), samples, eval_config=EvalConfig(batch_size=4))
    values, task = result.to_dict(), result.tasks[SINGLE_TASK]
    assert ("top5" in values) == ("top5" in values["tasks"][SINGLE_TASK]) == ("top5" in result.metrics) == (classes > 5)
    assert ("top-5" in str(result)) == (classes > 5)
    ranks = [naive_rank(row, label) for row, label in zip(table, labels, strict=True)]
    expected = pytest.approx(sum(rank < 5 for rank in ranks) / 7) if classes > 5 else None
    assert result.top5 == task.top5 == expected


@pytest.mark.parametrize(("verbs", "nouns"), [(1, 5), (2, 2), (2, 3), (6, 1)])
def test_top_5_of_several_tasks_counts_combinations(video, verbs, nouns):
    names = {"verb": [f"v{i}" for i in range(verbs)], "noun": [f"n{i}" for i in range(nouns)]}
    table = {"verb": make_table(3, verbs), "noun": make_table(3, nouns)}
    samples = [Sample(path=video, label={"verb": 0, "noun": 0}, id=f"s{i}") for i in range(3)]
    result = evaluate(TablePredictor(table, names), samples, eval_config=EvalConfig(batch_size=3))
    assert (result.top5 is None) == (verbs * nouns <= 5)
    assert [result.tasks[task].top5 is None for task in names] == [verbs <= 5, nouns <= 5]
    assert ("top5" in result.to_dict()) == (verbs * nouns > 5)


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_shares_that_the_score_test_does_not_reject(counts):
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    for bound, inside in ((low, 1e-6), (high, -1e-6)):
        for p, rejected in ((bound - inside, True), (bound + inside, False)):
            if 0 < p < 1:
                score = abs(successes / total - p) / math.sqrt(p * (1 - p) / total)
                assert (score > 1.9599639845) == rejected


def test_an_evaluation_says_views_counts_and_interval(video):
    samples = [Sample(path=video, label=0, id=f"v{i}") for i in range(10)]
    table = torch.tensor([[0.9, 0.1]] * 9 + [[0.1, 0.9]])
    config = EvalConfig(temporal_views=2, spatial_views=3, batch_size=5)
    result = evaluate(TablePredictor({SINGLE_TASK: table}, ["a", "b"]), samples, eval_config=config)
    assert result.to_dict()["top1_interval"] == pytest.approx([0.5958, 0.9821], abs=1e-4)  # Wilson (1927), 9 of 10
    assert "top-1 90.00 % (95 % interval 59.6 to 98.2 %) of 10 videos, 2 x 3 views" in str(result)
    assert result.metrics["videos"] == 10


def test_videos_read_with_warnings_are_counted_and_named(video, bad, tmp_path):
    """A file with a damaged frame and one with fewer frames than a clip are used; an unreadable one is not."""
    whole = barcode_videos.write_video(tmp_path / "whole.mpg", kind="mpeg2-mpg")
    damaged = barcode_videos.corrupt(tmp_path / "damaged.mpg", whole)
    short = barcode_videos.write_video(tmp_path / "short.mp4", frames=2)
    paths = [video, str(damaged), bad, str(short)]
    samples = [Sample(path=path, label=0, id=f"v{i}") for i, path in enumerate(paths)]
    predictor = TablePredictor({SINGLE_TASK: make_table(3, 2)}, ["a", "b"])
    result = evaluate(predictor, samples, eval_config=EvalConfig(batch_size=2))
    assert [(id, path) for id, path, _ in result.warnings] == [("v1", str(damaged)), ("v3", str(short))]
    assert result.warnings[0][2] == ("1 damaged frame",)
    assert "2 frames, fewer than the 4 of a clip" in result.warnings[1][2][0]
    assert "1 could not be read" in str(result)
    assert "2 were read with warnings" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["warnings"][1][:2] == ["v3", str(short)]
