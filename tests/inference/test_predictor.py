"""Predictions against the same steps done one by one."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata, write_video
from xvit.config import ClipSpec
from xvit.data.decode import decode, probe
from xvit.data.sampling import sample_indices
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference import Prediction, Predictor
from xvit.utils.errors import VideoError, XViTError


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "red.mp4", color=0, seed=1)


@pytest.fixture
def predictor():
    return Predictor(with_metadata(make_model(), list(CLASSES)))


def naive_scores(model, path, clip: ClipSpec, temporal_views: int, spatial_views: int) -> torch.Tensor:
    """The mean over the views, each decoded, cropped, normalised and scored separately."""
    total = probe(path).num_frames
    scores = []
    for view in range(temporal_views):
        frames = decode(path, sample_indices(clip, total, view=view, num_views=temporal_views)).frames
        for pixels in eval_views(as_tensor(frames), clip, spatial_views):
            with torch.no_grad():
                scores.append(model(normalize(pixels, clip)[None])[0].softmax(0))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("temporal_views", "spatial_views"), [(1, 1), (2, 3)])
def test_a_prediction_is_the_mean_over_the_views(video, temporal_views, spatial_views):
    model = with_metadata(make_model(), list(CLASSES))
    prediction = Predictor(model, temporal_views=temporal_views, spatial_views=spatial_views)(video)
    expected = naive_scores(make_model(), video, CLIP, temporal_views, spatial_views)
    scores = torch.tensor([prediction.scores[prediction.labels.index(name)] for name in CLASSES])
    torch.testing.assert_close(scores, expected)
    assert list(prediction.scores) == sorted(prediction.scores, reverse=True)
    assert prediction.path == str(video)


def test_views_change_the_scores(video):
    model = with_metadata(make_model(), list(CLASSES))
    assert Predictor(model)(video).scores != Predictor(model, spatial_views=3)(video).scores


def test_many_views_are_split_into_several_model_calls(predictor):
    pixels = torch.randint(0, 256, (2, 9, 4, 3, 16, 16), dtype=torch.uint8)
    sizes = []
    predictor.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    scores = predictor.predict_probabilities(pixels)
    assert sizes == [8, 8, 2]
    views = [predictor.predict_probabilities(pixels[:, view : view + 1]) for view in range(9)]
    torch.testing.assert_close(scores, torch.stack(views).mean(0))
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_times_are_those_of_the_sampled_frames(video, predictor):
    fps = 8  # the videos have 6 frames, of which segments of 4 take 0, 2, 3, 5
    assert predictor(video).times == pytest.approx([0 / fps, 2 / fps, 3 / fps, 5 / fps])


def test_a_checkpoint_directory_predicts_as_its_model(tmp_path, video, predictor):
    with_metadata(make_model(), list(CLASSES)).save_pretrained(tmp_path / "best")
    assert Predictor(tmp_path / "best", device="cpu")(video) == predictor(video)


def test_a_model_in_training_mode_is_put_in_eval_mode(video):
    model = make_model(dropout=0.5).train()
    predictor = Predictor(with_metadata(model, list(CLASSES)))
    assert predictor(video) == predictor(video)


def test_several_tasks(video):
    class_names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    model = make_model({"verb": 2, "noun": 3})
    prediction = Predictor(with_metadata(model, class_names))(video)
    pixels = eval_views(as_tensor(decode(video, [0, 2, 3, 5]).frames), CLIP)
    logits = model(normalize(pixels, CLIP))
    for task, names in class_names.items():
        assert prediction.labels[task][0] == names[int(logits[task].argmax())]
        assert sum(prediction.scores[task]) == pytest.approx(1)
    text = str(prediction)
    assert "verb" in text
    assert "noun" in text


def test_the_error_of_an_unreadable_video_names_it(tmp_path, predictor):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    with pytest.raises(VideoError, match=r"notes\.mp4"):
        predictor(path)
    with pytest.raises(VideoError, match="no such file"):
        predictor(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_are_in_the_order_of_the_paths_errors_included(num_workers, tmp_path, predictor):
    paths = [write_video(tmp_path / f"{number}.mp4", color=number % 3, seed=number) for number in range(19)]
    for bad in (0, 9, 18):
        paths[bad].write_bytes(b"nothing")
    results = list(predictor.predict(paths, num_workers=num_workers))
    assert [result.path for result in results] == [str(path) for path in paths]
    assert [index for index, result in enumerate(results) if isinstance(result, VideoError)] == [0, 9, 18]
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, Prediction):
            alone = predictor(path)
            assert (result.labels, result.times) == (alone.labels, alone.times)
            assert result.scores == pytest.approx(alone.scores, abs=1e-6)


def test_with_little_shared_memory(tmp_path, predictor, monkeypatch, caplog):
    path = write_video(tmp_path / "red.mp4", color=0, seed=1)
    monkeypatch.setattr("xvit.data.loader.shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    monkeypatch.setattr(logging.getLogger("xvit"), "filters", [])  # see tests/conftest.py
    with caplog.at_level("WARNING", logger="xvit"):
        [prediction] = predictor.predict([path], num_workers=2)
    assert prediction == predictor(path)
    assert "passed through pipes" in caplog.text


def test_predictions_are_yielded_before_all_videos_are_read(tmp_path, predictor):
    paths = [write_video(tmp_path / f"{number}.mp4", color=0, seed=number) for number in range(9)]
    results = predictor.predict([*paths, "nowhere.mp4"])
    first = next(results)
    assert isinstance(first, Prediction)
    paths[-1].unlink()  # in the second batch, which is not read yet
    assert [isinstance(result, VideoError) for result in results] == [False] * 7 + [True] * 2


def test_a_model_without_classes_is_refused():
    with pytest.raises(XViTError, match=r"no classes \(num_classes=0\).* train it first"):
        Predictor(make_model(num_classes=0))


def test_numbers_out_of_range_and_wrong_shapes(predictor):
    model = with_metadata(make_model(), list(CLASSES))
    with pytest.raises(XViTError, match="spatial_views=0"):
        Predictor(model, spatial_views=0)
    with pytest.raises(XViTError, match=r"expected 6 dimensions \(B, V, T, C, S, S\)"):
        predictor.predict_probabilities(torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(XViTError, match="no such checkpoint"):
        Predictor("nowhere")


PREDICTION = Prediction(path="a.mp4", labels=("up", "down"), scores=(0.75, 0.25), times=(0.0, 0.5))


def test_a_prediction_as_text_and_as_json():
    assert str(PREDICTION) == "a.mp4: 2 frames, 0.00 to 0.50 s\n  up     75.0 %\n  down   25.0 %"
    plain = {"path": "a.mp4", "labels": ["up", "down"], "scores": [0.75, 0.25], "times": [0.0, 0.5]}
    plain["warnings"] = []
    assert json.loads(json.dumps(PREDICTION.to_dict())) == plain


@pytest.mark.parametrize(
    "changes", [{"scores": (0.25, 0.75)}, {"scores": (1.0,)}, {"labels": {"verb": ("up", "down")}}]
)
def test_a_prediction_checks_its_fields(changes):
    with pytest.raises(XViTError):
        replace(PREDICTION, **changes)
