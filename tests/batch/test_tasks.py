"""The rows of jobs on videos against the functions for one video, or for all of them."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from helpers.barcode_videos import truncate, write_video
from helpers.calibration import with_calibration
from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit.batch import CheckTask, FeaturesTask, PredictTask, read_inputs, run_job
from xvit.batch.job import make_table
from xvit.batch.output import Part
from xvit.batch.tasks import PredictWorker
from xvit.data.decode import probe
from xvit.features import extract_features, read_features
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError

from .test_job import read_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine videos of several sizes, one that is no video and one that is cut short."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(9):
        write_video(folder / f"{number}.mp4", frames=20 + number, width=64 + 16 * (number % 3))
    (folder / "4b.mp4").write_text("not a video")
    truncate(folder / "8b.mp4", folder / "8.mp4", fraction=0.4)
    return folder


def test_predictions(folder, checkpoint, tmp_path):
    task = PredictTask(checkpoint=str(checkpoint), top_k=3, num_workers=1)
    summary = run_job(task, read_inputs(folder), tmp_path / "out", part_size=8)
    rows = read_rows(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(map(str, folder.iterdir()))
    predictor = Predictor(checkpoint)
    failures = []
    for row in rows:
        expected = next(predictor.predict([row["path"]]))
        if isinstance(expected, VideoError):
            failures.append((row["path"], expected.reason))
            assert (row["status"], row["error"], row["labels"]) == ("failed", expected.reason, None)
            continue
        assert (row["status"], row["error"]) == ("ok", None)
        assert tuple(row["labels"]) == expected.labels[:3]
        assert row["scores"] == pytest.approx(expected.scores[:3], abs=1e-6)
        assert (tuple(row["times"]), row["frames"]) == (expected.times, len(expected.times))
        assert tuple(row["warnings"]) == expected.warnings
    assert summary.failures == tuple(failures)
    assert summary.failed == len(failures) == 2


def test_rows_do_not_depend_on_workers_and_parts(folder, checkpoint, tmp_path):
    """Rows of the same batches are the same to the bit."""
    inputs = read_inputs(folder)
    tables = []
    for number, (num_workers, part_size) in enumerate([(0, 8), (2, 8), (1, 16)]):
        task = PredictTask(checkpoint=str(checkpoint), num_workers=num_workers)
        run_job(task, inputs, tmp_path / str(number), part_size=part_size)
        tables.append(read_rows(tmp_path / str(number)))
    assert tables[0] == tables[1] == tables[2]


def test_a_calibrated_model_adds_whether_a_video_is_known(folder, tmp_path):
    names = {"verb": ["a", "b", "c"], "noun": ["x", "y", "z"]}
    model = with_calibration(with_metadata(make_model({"verb": 3, "noun": 3}), names), threshold=-99)
    model.calibration = {**model.calibration, "noun": replace(model.calibration["noun"], energy_threshold=99)}
    model.save_pretrained(tmp_path / "tasks")
    run_job(PredictTask(checkpoint=str(tmp_path / "tasks"), num_workers=0), read_inputs(folder), tmp_path / "out")
    rows = [row for row in read_rows(tmp_path / "out") if row["status"] == "ok"]
    assert rows
    assert {(row["known_verb"], row["known_noun"]) for row in rows} == {(True, False)}


def test_several_tasks_have_columns_of_their_own(folder):
    names = {"verb": ["a", "b", "c"], "noun": ["x", "y", "z"]}
    model = with_metadata(make_model({"verb": 3, "noun": 3}), names)
    worker = PredictWorker(PredictTask(checkpoint="", top_k=1, num_workers=0), Predictor(model))
    path = str(folder / "0.mp4")
    row = make_table(worker, Part(number=0, first=0, paths=[path]), worker.values([path])).to_pylist()[0]
    prediction = Predictor(model)(path)
    assert row["labels_verb"] == [prediction.labels["verb"][0]]
    assert row["scores_noun"] == pytest.approx([prediction.scores["noun"][0]])


@pytest.mark.parametrize("level", ["clip", "frames"])
def test_features(folder, tmp_path, level):
    model = with_metadata(make_model(), list(CLASSES))
    model.save_pretrained(tmp_path / "model")
    task = FeaturesTask(checkpoint=str(tmp_path / "model"), level=level, batch_size=4, num_workers=1)
    summary = run_job(task, read_inputs(folder), tmp_path / "out", part_size=4)
    rows = read_rows(tmp_path / "out")
    paths = [row["path"] for row in rows]
    extract_features(XViT.from_pretrained(tmp_path / "model"), paths, tmp_path / "a.npy", level=level, batch_size=4)
    expected = read_features(tmp_path / "a.npy")
    good = [row for row in rows if row["status"] == "ok"]
    assert [row["path"] for row in good] == list(expected.paths)
    values = np.array([row["features"] for row in good], np.float32).reshape(expected.values.shape)
    np.testing.assert_array_equal(values, expected.values)
    assert (summary.rows, summary.failed) == (11, 2)
    assert all(row["features"] is None for row in rows if row["status"] == "failed")


def test_checks(folder, tmp_path):
    run_job(CheckTask(num_frames=22, num_workers=1), read_inputs(folder), tmp_path / "out")
    rows = {row["path"].rpartition("/")[2]: row for row in read_rows(tmp_path / "out")}
    assert len(rows) == 11
    for name in ("0.mp4", "1.mp4"):
        assert rows[name]["error"].startswith("too short: ")
    assert rows["4b.mp4"]["error"].startswith("unreadable: ")
    assert rows["8b.mp4"]["status"] == "failed"
    for number in range(2, 9):
        row, info = rows[f"{number}.mp4"], probe(folder / f"{number}.mp4")
        assert (row["status"], row["frames"], row["codec"]) == ("ok", 20 + number, info.codec)
        assert (row["width"], row["height"]) == (info.width, info.height)
        assert math.isclose(row["fps"], info.fps)
        assert math.isclose(row["duration"], info.duration)


def test_columns_of_features_have_their_length(folder, tmp_path):
    model = with_metadata(make_model(), list(CLASSES))
    model.save_pretrained(tmp_path / "model")
    worker = FeaturesTask(checkpoint=str(tmp_path / "model"), level="frames").open()
    assert worker.columns["features"] == pa.list_(pa.float32(), math.prod(worker.shape))
    assert worker.describe()["shape"] == list(worker.shape)
