"""Predictions against the same steps taken one by one."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers.color_videos import CLASSES, CLIP, described, make_model, write_video
from xvit.config import ClipSpec
from xvit.data.decode import decode, probe
from xvit.data.sampling import sample_indices
from xvit.data.transforms import eval_views, normalize
from xvit.inference.predictor import Prediction, Predictor
from xvit.utils.devices import default_device
from xvit.utils.errors import VideoError, XViTError


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "red.mp4", color=0, seed=1)


@pytest.fixture
def predictor():
    return Predictor(described(make_model(), list(CLASSES)))


def naive_scores(model, path, clip: ClipSpec, temporal_views: int, spatial_views: int) -> torch.Tensor:
    """Each view decoded, cropped, normalised, scored by itself; then their mean."""
    total = probe(path).num_frames
    scores = []
    for view in range(temporal_views):
        frames = decode(path, sample_indices(clip, total, view=view, num_views=temporal_views)).frames
        for pixels in eval_views(frames, clip, spatial_views):
            with torch.no_grad():
                scores.append(model(normalize(pixels, clip)[None])[0].softmax(0))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("temporal_views", "spatial_views"), [(1, 1), (2, 3)])
def test_a_prediction_is_the_mean_over_the_views(video, temporal_views, spatial_views):
    model = make_model()
    checkpoint = described(model, list(CLASSES))
    prediction = Predictor(checkpoint, temporal_views=temporal_views, spatial_views=spatial_views)(video)
    expected = naive_scores(model, video, CLIP, temporal_views, spatial_views)
    found = torch.tensor([prediction.scores[prediction.labels.index(name)] for name in CLASSES])
    torch.testing.assert_close(found, expected)
    assert list(prediction.scores) == sorted(prediction.scores, reverse=True)
    assert prediction.path == str(video)


def test_views_change_the_scores(video):
    checkpoint = described(make_model(), list(CLASSES))
    assert Predictor(checkpoint)(video).scores != Predictor(checkpoint, spatial_views=3)(video).scores


def test_many_views_go_through_the_model_in_parts(predictor):
    pixels = torch.randint(0, 256, (2, 9, 4, 3, 16, 16), dtype=torch.uint8)
    sizes = []
    predictor.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    scores = predictor.scores(pixels)
    assert sizes == [8, 8, 2]
    torch.testing.assert_close(
        scores, torch.stack([predictor.scores(pixels[:, view : view + 1]) for view in range(9)]).mean(0)
    )
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_the_times_are_those_of_the_frames_looked_at(video, predictor):
    fps = 8  # of the written videos: 6 frames, of which segments of 4 take 0, 2, 3, 5
    assert predictor(video).times == pytest.approx([0 / fps, 2 / fps, 3 / fps, 5 / fps])


def test_a_directory_and_a_loaded_checkpoint_predict_the_same(tmp_path, video, predictor):
    described(make_model(), list(CLASSES)).save_pretrained(tmp_path / "best")
    assert Predictor(tmp_path / "best", device="cpu")(video) == predictor(video)


def test_a_model_in_training_is_put_in_eval_mode(video):
    model = make_model(dropout=0.5).train()
    predictor = Predictor(described(model, list(CLASSES)))
    assert predictor(video) == predictor(video)


def test_several_tasks(video):
    labels = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    model = make_model({"verb": 2, "noun": 3})
    prediction = Predictor(described(model, labels))(video)
    pixels = eval_views(decode(video, [0, 2, 3, 5]).frames, CLIP)
    logits = model(normalize(pixels, CLIP))
    for task, names in labels.items():
        assert prediction.labels[task][0] == names[int(logits[task].argmax())]
        assert sum(prediction.scores[task]) == pytest.approx(1)
    text = str(prediction)
    assert "verb" in text
    assert "noun" in text


def test_a_bad_video_is_named(tmp_path, predictor):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    with pytest.raises(VideoError, match=r"notes\.mp4"):
        predictor(path)
    with pytest.raises(VideoError, match="no such file"):
        predictor(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_many_videos_are_answered_in_turn_the_bad_ones_too(num_workers, tmp_path, predictor):
    paths = [write_video(tmp_path / f"{number}.mp4", color=number % 3, seed=number) for number in range(19)]
    for bad in (0, 9, 18):
        paths[bad].write_bytes(b"nothing")
    answers = list(predictor.predict(paths, num_workers=num_workers))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert [place for place, answer in enumerate(answers) if isinstance(answer, VideoError)] == [0, 9, 18]
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, Prediction):
            alone = predictor(path)
            assert (answer.labels, answer.times) == (alone.labels, alone.times)
            assert answer.scores == pytest.approx(alone.scores, abs=1e-6)


def test_with_little_shared_memory_videos_are_read_all_the_same(tmp_path, predictor, monkeypatch, caplog):
    path = write_video(tmp_path / "red.mp4", color=0, seed=1)
    monkeypatch.setattr("xvit.data.loader.shutil.disk_usage", lambda place: SimpleNamespace(free=10))
    with caplog.at_level("WARNING", logger="xvit"):
        [answer] = predictor.predict([path], num_workers=2)
    assert answer.labels == predictor(path).labels
    assert "Videos are read by this process" in caplog.text


def test_the_model_works_before_all_videos_are_read(tmp_path, predictor):
    paths = [write_video(tmp_path / f"{number}.mp4", color=0, seed=number) for number in range(9)]
    answers = predictor.predict([*paths, "nowhere.mp4"])
    first = next(answers)
    assert isinstance(first, Prediction)
    paths[-1].unlink()  # of the second batch: not read yet
    assert [isinstance(answer, VideoError) for answer in answers] == [False] * 7 + [True] * 2


def test_wrong_numbers_and_shapes(predictor):
    checkpoint = described(make_model(), list(CLASSES))
    with pytest.raises(XViTError, match="spatial_views=0"):
        Predictor(checkpoint, spatial_views=0)
    with pytest.raises(XViTError, match=r"expected 6 dimensions \(B, V, T, C, S, S\)"):
        predictor.scores(torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(XViTError, match="no such checkpoint"):
        Predictor("nowhere")


def test_each_process_has_an_accelerator_of_its_own(monkeypatch):
    assert default_device() == torch.device("cpu")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    assert default_device() == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert default_device() == torch.device("cuda:3")


PREDICTION = Prediction(path="a.mp4", labels=("up", "down"), scores=(0.75, 0.25), times=(0.0, 0.5))


def test_a_prediction_prints_well_and_is_plain_in_json():
    assert str(PREDICTION) == "a.mp4: 2 frames, 0.00 to 0.50 s\n  up     75.0 %\n  down   25.0 %"
    plain = {"path": "a.mp4", "labels": ["up", "down"], "scores": [0.75, 0.25], "times": [0.0, 0.5]}
    assert json.loads(json.dumps(PREDICTION.to_dict())) == plain


@pytest.mark.parametrize(
    "changes", [{"scores": (0.25, 0.75)}, {"scores": (1.0,)}, {"labels": {"verb": ("up", "down")}}]
)
def test_a_prediction_checks_itself(changes):
    with pytest.raises(XViTError):
        replace(PREDICTION, **changes)
