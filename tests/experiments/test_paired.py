"""Paired differences: their intervals contain the true difference as often as they say, or more often."""

import numpy as np
import pytest

from xvit.experiments.ablation.paired import Difference, SeedNoise, paired_difference, student_t


def draw(rng, accuracy, seeds, difficulty, seed_std):
    """Results (seeds, clips) of a model: clips differ in difficulty, trainings in quality."""
    quality = rng.normal(0, seed_std, size=(seeds, 1))
    return rng.random((seeds, len(difficulty))) < np.clip(accuracy + quality + difficulty, 0, 1)


@pytest.mark.parametrize("seed_std", [0.0, 0.01, 0.03])
def test_95_percent_of_the_intervals_contain_the_true_difference(seed_std):
    rng, hits, rounds = np.random.default_rng(0), 0, 300
    for _ in range(rounds):
        difficulty = rng.uniform(-0.3, 0.3, size=800)
        models = [draw(rng, accuracy, 3, difficulty, seed_std) for accuracy in (0.6, 0.65, 0.62, 0.5, 0.55)]
        difference = paired_difference(models[0], models[1], SeedNoise.pool(models))
        hits += abs(difference.points - 5) <= difference.margin
    assert 0.93 <= hits / rounds <= 1


def test_the_seed_noise_is_the_pooled_variance():
    rng = np.random.default_rng(1)
    results = [rng.random((3, 50)) < 0.5, rng.random((5, 50)) < 0.5, rng.random((1, 50)) < 0.5]
    noise = SeedNoise.pool(results)
    squares = [sum((row.mean() - result.mean()) ** 2 for row in result) for result in results]
    assert noise.degrees == 6
    assert noise.variance == pytest.approx(sum(squares) / 6)


def test_the_difference_is_that_of_the_accuracies():
    rng = np.random.default_rng(2)
    lower, higher = rng.random((3, 40)) < 0.4, rng.random((3, 40)) < 0.6
    difference = paired_difference(lower, higher, SeedNoise(0.0, 4))
    assert difference.points == pytest.approx(100 * (higher.mean() - lower.mean()))
    per_clip = [higher[:, clip].mean() - lower[:, clip].mean() for clip in range(40)]
    assert difference.margin == pytest.approx(100 * student_t(4) * np.std(per_clip, ddof=1) / 40**0.5)


def test_one_seed_has_no_interval():
    result = np.ones((1, 5), bool)
    difference = paired_difference(result, result, SeedNoise.pool([result, result]))
    assert difference == Difference(0.0, None)
    assert (str(difference), difference.is_clear) == ("+0.0", False)


@pytest.mark.parametrize(("degrees", "quantile"), [(5, 2.571), (10, 2.228), (26, 2.056), (38, 2.024), (1000, 1.962)])
def test_students_t(degrees, quantile):
    assert student_t(degrees) == pytest.approx(quantile, rel=0.01)
