"""A calibrated model in predictions, live streams and timelines, against naive softmax and energy."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.calibration import naive_energy, with_calibration
from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata
from xvit.config import SINGLE_TASK
from xvit.data.capture.source import Source
from xvit.data.decode import decode, probe
from xvit.data.sampling import sample_indices
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference import LivePrediction, LivePredictor, Prediction, Predictor
from xvit.timeline import score_video

NAMES = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
T = 2.5  # temperature


def noisy(model):
    """A model without parameters that are zero, so that its logits differ from clip to clip."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    model.clip_spec = replace(CLIP, sampling="strided")
    return model


def make_stream_model():
    return noisy(with_metadata(make_model(3, temporal_position="head"), list(CLASSES)))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=24)


@torch.no_grad()
def naive_views(model, video, temporal_views: int, spatial_views: int) -> dict[str, np.ndarray]:
    """The logits (views, classes) of each task, one clip at a time."""
    total, rows = probe(video).num_frames, []
    for view in range(temporal_views):
        indices = sample_indices(model.clip_spec, total, view=view, num_views=temporal_views)
        frames = decode(video, indices, short_side=CLIP.image_size).frames
        for pixels in eval_views(as_tensor(frames), model.clip_spec, spatial_views):
            logits = model(normalize(pixels, model.clip_spec)[None])
            rows.append(logits if isinstance(logits, dict) else {SINGLE_TASK: logits})
    return {task: torch.cat([row[task] for row in rows]).numpy() for task in rows[0]}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum()


@pytest.mark.parametrize("views", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("side", [-1e-3, 1e-3])
def test_scores_are_scaled_and_low_energies_rejected(video, views, side):
    """Both are means over the views; the threshold is just below or above the energy."""
    model = make_stream_model()
    logits = naive_views(model, video, *views)[SINGLE_TASK]
    energy = float(np.mean([naive_energy(row) for row in logits]))
    with_calibration(model, temperature=T, threshold=energy + side)
    predictor = Predictor(model, temporal_views=views[0], spatial_views=views[1])
    prediction = predictor(video)
    expected = np.mean([softmax(row / T) for row in logits], axis=0)
    scores = [prediction.scores[prediction.labels.index(name)] for name in CLASSES]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert prediction.known is (side < 0)
    assert prediction.label == (prediction.labels[0] if side < 0 else None)
    assert prediction.to_dict()["known"] is (side < 0)
    assert ("none of these (nearest: " in str(prediction)) == (side > 0)
    frames = decode(video, range(24), short_side=CLIP.image_size).frames
    assert predictor(frames, fps=25).known is prediction.known
    assert json.loads(json.dumps(prediction.to_dict()))["labels"] == list(prediction.labels)


def test_each_task_has_its_own_calibration(video):
    model = noisy(with_metadata(make_model({"verb": 2, "noun": 3}), NAMES))
    logits = {task: rows[0] for task, rows in naive_views(model, video, 1, 1).items()}
    with_calibration(model)
    verb, noun = model.calibration["verb"], model.calibration["noun"]
    model.calibration = {
        "verb": replace(verb, temperature=0.5, energy_threshold=naive_energy(logits["verb"]) - 0.1),
        "noun": replace(noun, temperature=4.0, energy_threshold=naive_energy(logits["noun"]) + 0.1),
    }
    prediction = Predictor(model)(video)
    assert prediction.known == {"verb": True, "noun": False}
    assert prediction.label == {"verb": prediction.labels["verb"][0], "noun": None}
    for task, temperature in (("verb", 0.5), ("noun", 4.0)):
        assert prediction.scores[task] == pytest.approx(
            sorted(softmax(logits[task] / temperature), reverse=True), abs=1e-5
        )
    nearest = f"none of these (nearest: {prediction.labels['noun'][0]}, {100 * prediction.scores['noun'][0]:.0f} %)"
    assert str(prediction).count("none of these") == 1
    assert nearest in str(prediction).split("noun\n")[1]


def test_without_a_calibration_nothing_changes(video):
    """The same scores to the bit, the same keys; a temperature of 1 that rejects nothing gives these scores, too."""
    model = make_stream_model()
    plain = Predictor(model)(video)
    assert (plain.known, plain.label) == (None, plain.labels[0])
    assert set(plain.to_dict()) == {"path", "labels", "scores", "times", "warnings"}
    with_calibration(model, temperature=1.0, threshold=-1e5)
    assert replace(Predictor(model)(video), known=None) == plain
    assert Prediction(path="a.mp4", labels=("a",), scores=(1.0,), times=(0.0,)).known is None


def test_model_hash_depends_on_the_calibration():
    model = make_stream_model()
    plain = Predictor(model).model_hash()
    hashes = {Predictor(with_calibration(model, threshold=t)).model_hash() for t in (0.0, 1.0)}
    assert len(hashes) == 2
    assert all(found.startswith(f"{plain}-") for found in hashes)


@torch.no_grad()
def stream_logits(model, video) -> np.ndarray:
    """The logits (24, classes) at each frame, from the frames so far, at most T of them."""
    pixels = normalize(
        eval_views(as_tensor(decode(video, range(24), short_side=CLIP.image_size).frames), model.clip_spec),
        model.clip_spec,
    )
    vectors, frames = model.forward_features(pixels).frames, model.config.num_frames
    heads = [model.temporal_head(vectors[:, max(0, t - frames + 1) : t + 1]) for t in range(24)]
    return torch.cat([model.classifier(head)[SINGLE_TASK] for head in heads]).numpy()


def test_live_predictions_have_no_label_where_the_energy_is_low(video):
    model = make_stream_model()
    logits = stream_logits(model, video)
    energy = np.array([naive_energy(row) for row in logits])
    threshold = float(np.median(energy))
    with_calibration(model, temperature=T, threshold=threshold)
    live = LivePredictor(model, Source(str(video)), stride=1, motion_threshold=0)
    predictions = [item for item in live if isinstance(item, LivePrediction)]
    assert [p.known for p in predictions] == (energy >= threshold).tolist()
    assert [p.label for p in predictions] == [p.labels[0] if p.known else None for p in predictions]
    for prediction, row in zip(predictions, logits, strict=True):
        assert prediction.scores == pytest.approx(sorted(softmax(row / T), reverse=True), abs=1e-4)


@pytest.mark.parametrize("streamed", [True, False])
def test_timelines_score_0_where_the_energy_is_low(video, streamed):
    """In streams and in windows: such a time is background, as one without motion is."""
    model = make_stream_model()
    if not streamed:
        model = noisy(with_metadata(make_model(3, temporal_position="input"), list(CLASSES)))
    plain = score_video(model, video, stride=1)
    assert plain.method == ("stream" if streamed else "windows")
    with_calibration(model, temperature=1.0, threshold=-1e5)
    np.testing.assert_array_equal(score_video(model, video, stride=1).scores, plain.scores)
    energies = []
    if streamed:
        energies = [naive_energy(row) for row in stream_logits(model, video)]
    else:
        pixels = normalize(
            eval_views(as_tensor(decode(video, range(24), short_side=CLIP.image_size).frames), CLIP), CLIP
        )
        with torch.no_grad():
            clips = [model(pixels[:, end - 4 : end])[0] for end in range(4, 25, 2)]
        energies = [naive_energy(row) for row in clips]
    threshold = float(np.median(energies)) + 1e-6
    with_calibration(model, temperature=1.0, threshold=threshold)
    scores = score_video(model, video, stride=1).scores
    known = np.array(energies) >= threshold
    assert 0 < known.sum() < len(known)
    np.testing.assert_array_equal(scores[~known], 0)
    np.testing.assert_array_equal(scores[known], plain.scores[known])
