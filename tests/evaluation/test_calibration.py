"""Reliability, temperature and threshold against naive computations; the calibration of a model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.calibration import naive_energy, with_calibration
from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata, write_video
from xvit.checkpoint.weights import weights_hash
from xvit.config import SINGLE_TASK, EvalConfig, energies
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.evaluation import calibrate, compute_metrics, score_videos
from xvit.evaluation.calibration import (
    calibrate_scores,
    choose_threshold,
    fit_temperature,
    measure_reliability,
    scale_scores,
)
from xvit.inference.predictor import Predictor
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Thirty videos of three colours."""
    folder = tmp_path_factory.mktemp("colours")
    paths = [write_video(folder / f"{i}.mp4", color=2 - i % 3, seed=i) for i in range(30)]
    return [Sample(path=str(path), label=i % 3, id=path.name) for i, path in enumerate(paths)]


@torch.no_grad()
def logits_of(model, samples) -> np.ndarray:
    """The logits (N, K) of the centre views, one clip at a time."""
    dataset = VideoDataset(samples=samples, clip_spec=CLIP)
    return torch.cat([model(normalize(dataset[i].pixels, CLIP)) for i in range(len(samples))]).numpy()


def separating_model(samples):
    """A model whose logits differ from clip to clip, and whose classes are all predicted for some of the videos."""
    model = with_metadata(make_model(), list(CLASSES))
    torch.manual_seed(5)
    layer = model.classifier.fc[SINGLE_TASK]
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        layer.weight.mul_(4)
        layer.bias.sub_(torch.from_numpy(logits_of(model, samples).mean(axis=0)))
    return model


def naive_calibration_error(scores, targets) -> float:
    error = 0.0
    for number in range(15):
        inside = []
        for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
            if number / 15 < max(row) <= (number + 1) / 15:
                inside.append((max(row), row.index(max(row)) == target))
        if inside:
            mean_score = sum(score for score, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(scores) * abs(mean_score - accuracy)
    return error


def test_calibration_error_equals_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn(500, 6, generator=generator, dtype=torch.float64)).softmax(1)
    targets = torch.randint(0, 6, (500,), generator=generator)
    targets[::2] = scores[::2].argmax(1)
    bins = measure_reliability(scores, targets)
    assert bins.calibration_error == pytest.approx(naive_calibration_error(scores, targets), rel=1e-9)
    assert sum(bins.videos) == 500
    assert [score is None for score in bins.score] == [count == 0 for count in bins.videos]
    edges = torch.tensor([[1.0, 0.0], [0.6, 0.4], [2 / 3, 1 / 3]], dtype=torch.float64)
    assert [i for i, n in enumerate(measure_reliability(edges, torch.zeros(3).long()).videos) if n] == [8, 9, 14]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_overconfident_logits_is_found(temperature):
    """Labels drawn from softmax(logits / T): T makes the scores true."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    true = (logits / temperature).softmax(1)
    targets = torch.multinomial(true, 1, generator=generator)[:, 0]
    found = fit_temperature(logits.softmax(1), targets)
    assert found == pytest.approx(temperature, rel=0.05)
    scaled = scale_scores(logits.softmax(1), found)
    assert measure_reliability(scaled, targets).calibration_error < 0.015
    torch.testing.assert_close(scale_scores(logits.softmax(1), 3.0), (logits / 3).softmax(1).float())


def test_the_temperature_is_that_of_the_smallest_loss():
    generator = torch.Generator().manual_seed(2)
    logits = 5 * torch.randn(300, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (300,), generator=generator)
    targets[:200] = logits[:200].argmax(1)
    right = torch.full((300, 4), 1 / 302 / 3, dtype=torch.float64).scatter(1, targets[:, None], 301 / 302)

    def loss(t: float) -> float:
        return -((logits / t).log_softmax(1) * right).sum(1).mean().item()

    found = fit_temperature(logits.softmax(1), targets)
    assert all(loss(found) < loss(found * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_a_perfect_model_keeps_finite_scores():
    """Without mistakes the loss falls for ever as T does; a score of 1 is no answer from 40 videos."""
    logits = torch.eye(4, dtype=torch.float64).repeat(10, 1) * 3
    temperature = fit_temperature(logits.softmax(1), torch.arange(4).repeat(10))
    assert 0.9 < (logits / temperature).softmax(1).max().item() < 0.99


@given(st.lists(st.floats(-50, 50), min_size=20, max_size=120), st.sampled_from([0.5, 0.75, 0.8, 0.9, 0.95, 1.0]))
def test_the_threshold_keeps_the_share_and_no_more_than_needed(values, keep):
    threshold = choose_threshold(values, keep)
    kept = sum(value >= threshold for value in values)
    assert kept >= keep * len(values) - 1e-6
    lowest = min(value for value in values if value >= threshold)
    assert sum(value > lowest for value in values) < keep * len(values) + 1e-6  # what a higher threshold would keep


def test_a_threshold_needs_enough_videos():
    assert choose_threshold([3.0, 1.0, 2.0], 1.0) == 1.0
    assert choose_threshold(range(20), 0.95) == 0.5
    with pytest.raises(XViTError, match=r"^19 correctly classified videos: expected at least 20, of which keep=0\.95"):
        choose_threshold(range(19), 0.95)
    with pytest.raises(XViTError, match=r"^0 correctly classified videos: expected at least 1"):
        choose_threshold([], 1.0)


def test_calibration_of_a_model(samples):
    """Temperature and threshold from naive logits; what is unknown does not change them."""
    model = separating_model(samples)
    logits, targets = logits_of(model, samples), np.array([sample.label for sample in samples])
    right = logits.argmax(1) == targets
    assert 8 < right.sum() < 28
    assert set(logits.argmax(1)) == {0, 1, 2}
    done = []
    result = calibrate(
        model, samples, unknown=samples[:9], keep=0.8, on_progress=lambda done_, total: done.append((done_, total))
    )
    assert done[-1] == (39, 39)
    measured = result.tasks[SINGLE_TASK]
    found = measured.calibration
    assert found.temperature == pytest.approx(
        fit_temperature(torch.from_numpy(logits).softmax(1), torch.from_numpy(targets)), rel=1e-3
    )
    energy = np.array([naive_energy(row) for row in logits])
    assert measured.energies["known"] == pytest.approx(energy, rel=1e-5)
    assert found.energy_threshold == pytest.approx(choose_threshold(energy[right], 0.8), rel=1e-5)
    accepted = energy >= found.energy_threshold
    assert measured.coverage == pytest.approx(accepted.mean())
    assert measured.unknown_rejected == pytest.approx(1 - accepted[:9].mean())
    assert measured.precision == pytest.approx((accepted & right).sum() / (accepted.sum() + accepted[:9].sum()))
    assert found.weights_hash == weights_hash(model.state_dict())
    alone = calibrate(model, samples, keep=0.8)
    assert alone.calibration == result.calibration
    assert alone.tasks[SINGLE_TASK].unknown_rejected is None


def test_scores_alone_give_the_same_calibration(samples):
    """Softmax hides a number that is added to all logits, to which temperature and energy are blind."""
    model = separating_model(samples)
    measured = calibrate(model, samples, keep=0.8).tasks[SINGLE_TASK].to_dict()
    scored = score_videos(Predictor(model), samples, eval_config=EvalConfig())
    assert not scored.margins
    result = calibrate_scores(scored, weights_hash(model.state_dict()), own=scored, keep=0.8)[SINGLE_TASK].to_dict()
    for name in ("weights_hash", "unknown_rejected"):
        assert result.pop(name) == measured.pop(name)
    assert result == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_the_model_accepts_its_own_training_videos_although_its_energies_are_lower(samples, shift):
    """Energies of the models of the folds that are not those of the model that is calibrated."""
    model = separating_model(samples)
    scored = score_videos(Predictor(model), samples, eval_config=EvalConfig())
    logits = scored.scores[SINGLE_TASK].double().log()
    own = replace(scored, scores={SINGLE_TASK: (logits * math.exp(shift)).softmax(dim=1)})
    found = weights_hash(model.state_dict())
    result = calibrate_scores(scored, found, own=own, keep=0.8)[SINGLE_TASK]
    alone = calibrate_scores(scored, found, own=scored, keep=0.8)[SINGLE_TASK]
    threshold = result.calibration.energy_threshold
    right = (logits.argmax(dim=1) == torch.tensor([sample.label for sample in scored.samples])).numpy()
    accepted = energies(own.scores[SINGLE_TASK].log().numpy())[right] >= threshold
    assert accepted.mean() >= 0.8
    if shift < 0:
        assert threshold < alone.calibration.energy_threshold
        assert result.coverage > alone.coverage
    else:
        assert result.to_dict() == alone.to_dict()


def test_an_earlier_calibration_is_neither_used_nor_changed(samples):
    model = separating_model(samples)
    plain = calibrate(model, samples, keep=0.8).calibration
    with_calibration(model, temperature=7, threshold=100)
    before = model.calibration
    assert calibrate(model, samples, keep=0.8).calibration == plain
    assert model.calibration is before
    with pytest.raises(XViTError, match="none of 1 videos could be read"):
        calibrate(model, [Sample(path="none.mp4", label=0, id="none")])
    assert model.calibration is before


def test_several_tasks_and_models_that_cannot_be_calibrated(samples):
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    model = with_metadata(make_model({"verb": 2, "noun": 3}), names)
    labelled = [Sample(path=s.path, label={"verb": i % 2, "noun": i % 3}, id=s.id) for i, s in enumerate(samples)]
    result = calibrate(model, labelled, keep=0.5)
    assert list(result.tasks) == ["verb", "noun"]
    with pytest.raises(XViTError, match="only models with one label per video can be calibrated"):
        calibrate(with_metadata(make_model(multi_label=True), list(CLASSES)), samples)
    with pytest.raises(XViTError, match="keep=0: expected a number, between"):
        calibrate(model, labelled, keep=0)


def test_evaluations_count_what_a_calibrated_model_accepts(samples):
    """Accuracy is that of the best class as before; scores, loss and calibration error are those of softmax(l / T)."""
    model = separating_model(samples)
    logits, targets = logits_of(model, samples), np.array([sample.label for sample in samples])
    energy = np.array([naive_energy(row) for row in logits])
    plain = compute_metrics(score_videos(Predictor(model), samples, eval_config=EvalConfig()))
    with_calibration(model, temperature=3.0, threshold=float(np.median(energy)))
    result = compute_metrics(score_videos(Predictor(model), samples, eval_config=EvalConfig()))
    right, accepted = logits.argmax(1) == targets, energy >= np.median(energy)
    assert result.top1 == plain.top1 == pytest.approx(right.mean())
    task = result.tasks[SINGLE_TASK]
    assert task.coverage == pytest.approx(accepted.mean())
    assert task.accepted_top1 == pytest.approx(right[accepted].mean())
    assert [sample.known for sample in result.samples] == accepted.tolist()
    scaled = torch.from_numpy(logits / 3).softmax(1)
    assert result.calibration_error == pytest.approx(
        naive_calibration_error(scaled, torch.from_numpy(targets)), abs=1e-5
    )
    values = result.to_dict()["tasks"][SINGLE_TASK]
    assert values["coverage"] == task.coverage
    assert values["calibration_error"] == result.to_dict()["calibration_error"] == result.metrics["calibration_error"]
    without = plain.to_dict()["tasks"][SINGLE_TASK]
    assert set(values) - set(without) == {"coverage", "accepted_top1"}
    assert all("known" in row for row in result.rows())
    assert not any("known" in row for row in plain.rows())
    with_calibration(model, threshold=1e5)
    nothing = compute_metrics(score_videos(Predictor(model), samples, eval_config=EvalConfig()))
    assert (nothing.tasks[SINGLE_TASK].coverage, nothing.tasks[SINGLE_TASK].accepted_top1) == (0, None)


def test_evaluation_of_several_tasks_averages_the_errors(samples):
    names = {"verb": ["put", "take"], "noun": ["cup", "lid", "pan"]}
    model = with_metadata(make_model({"verb": 2, "noun": 3}), names)
    labelled = [Sample(path=s.path, label={"verb": i % 2, "noun": i % 3}, id=s.id) for i, s in enumerate(samples)]
    result = compute_metrics(score_videos(Predictor(model), labelled, eval_config=EvalConfig()))
    errors = [task.reliability.calibration_error for task in result.tasks.values()]
    assert result.calibration_error == pytest.approx(sum(errors) / 2)
