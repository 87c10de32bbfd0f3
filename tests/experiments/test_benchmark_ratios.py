"""The intervals of the benchmark's ratios, and when its rounds end."""

import math
import re

import numpy as np
import pytest

from helpers.color_videos import SIZE  # noqa: F401 - sets torch's threads
from xvit.experiments.benchmark import measure, ratios
from xvit.experiments.benchmark.measure import GroupSettings, Limits, add_rounds, time_ratios, widest
from xvit.experiments.benchmark.ratios import ratio_of
from xvit.utils.intervals import median_interval

SETTINGS = GroupSettings(
    backbone="b", frames=8, precision="fp32", mode="inference", batch_size=1, compiled=False, device="cpu", threads=1
)


def empty_group(*names: str) -> dict:
    models = {name: {"seconds": [], "parameters": 1, "macs": 1, "peak_bytes": [1]} for name in names}
    return {"wall_seconds": 0.0, "models": models}


@pytest.fixture
def scripted(monkeypatch):
    """A function that replaces the rounds by given ones, and the clock by one that each round advances."""

    def replace(rounds, clock_step: float = 1.0) -> None:
        clock = 0.0

        def run_rounds(steps):
            nonlocal clock
            for seconds in rounds:
                clock += clock_step
                if isinstance(seconds, BaseException):
                    raise seconds
                yield seconds

        monkeypatch.setattr(measure, "interleaved_rounds", run_rounds)
        monkeypatch.setattr(measure, "_build", lambda name, settings: None)
        monkeypatch.setattr(measure, "make_step", lambda name, model, settings: None)
        monkeypatch.setattr(measure.time, "perf_counter", lambda: clock)

    return replace


def noisy_rounds(spread: float, count: int = 500) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    noise = np.exp(spread * rng.standard_normal(count))
    return [{"image model": 1.0, "a": float(value)} for value in noise]


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    """The machine gets slower from round to round, and once stops for a while in one model."""
    reference = [1.0 * 2**i for i in range(9)]
    seconds = [
        value * factor for value, factor in zip(reference, [3.2, 0.9, 2, 2.1, 1.9, 2, 2.2, 40, 1.8], strict=True)
    ]
    ratio = ratio_of(seconds, reference)
    assert ratio.median == 2
    assert (ratio.low, ratio.high) == (0.9, 40)  # 9 rounds: the least and the greatest at 97.5 %
    assert ratio.margin == pytest.approx(1900)
    assert ratio.outliers == [0, 1, 7]
    ratio = ratio_of([*seconds, 2.0], [*reference, 1.0])  # 10 rounds: without these two
    assert (ratio.low, ratio.high, ratio.outliers) == (pytest.approx(1.8), pytest.approx(3.2), [0, 1, 7])
    few = ratio_of([2.0] * (ratios.MIN_ROUNDS - 1), [1.0] * (ratios.MIN_ROUNDS - 1))
    assert (few.median, few.low, few.high, few.margin) == (2, None, None, math.inf)
    assert ratio_of([2.0] * ratios.MIN_ROUNDS, [1.0] * ratios.MIN_ROUNDS).margin == 0


def stops_at(values: list[float], margin: float, confidence: float) -> tuple[float, float]:
    """The interval at the first look at which it is within `margin` percent, computed from scratch."""
    for count in range(6, len(values) + 1):
        interval, median = median_interval(values[:count], confidence), float(np.median(values[:count]))
        if interval and max(interval[1] - median, median - interval[0]) <= margin / 100 * median:
            break
    return interval


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_the_interval_holds_often_enough_although_it_decides_when_to_stop(draw):
    """Intervals computed at 95 % would not: for the exponential noise in only 92 %."""
    rng, hits, hits_at_95 = np.random.default_rng(0), 0, 0
    true_median = {"normal": 1.0, "exponential": math.exp(0.02 * math.log(2))}[draw]
    for _ in range(500):
        noise = rng.standard_normal(200) if draw == "normal" else rng.exponential(size=200)
        values = np.exp(0.02 * noise).tolist()
        low, high = stops_at(values, 1.5, ratios.CONFIDENCE)
        hits += low <= true_median <= high
        low, high = stops_at(values, 1.5, 0.95)
        hits_at_95 += low <= true_median <= high
    assert hits >= 0.95 * 500
    assert hits_at_95 < hits


def test_rounds_end_once_all_intervals_are_narrow(scripted):
    rounds = noisy_rounds(0.02)
    scripted([rounds[0], *rounds])
    group, lines = empty_group("image model", "a"), []
    add_rounds(group, SETTINGS, Limits(margin=1, seconds=1e9), lines.append)
    values = group["models"]["a"]["seconds"]
    assert values == [each["a"] for each in rounds[: len(values)]]  # the first round is not timed
    assert time_ratios({"image model": [1.0] * len(values), "a": values})["a"].margin <= 1
    assert time_ratios({"image model": [1.0] * (len(values) - 1), "a": values[:-1]})["a"].margin > 1
    assert 10 < len(values) < 100
    assert group["wall_seconds"] == len(values) + 0.0 + 1  # the untimed round among them
    assert lines[-1].startswith(f"round {len(values)}, at most ")
    assert re.search(r" left, widest interval: ±[01]\.?\d* % \(a\)$", lines[-1])


def test_rounds_end_at_the_time_limit(scripted):
    rounds = noisy_rounds(0.2)
    scripted([rounds[0], *rounds], clock_step=10)
    group, lines = empty_group("image model", "a"), []
    add_rounds(group, SETTINGS, Limits(margin=1, seconds=95), lines.append)
    assert len(group["models"]["a"]["seconds"]) == 9  # and one untimed
    assert "round 1, at most 1:15 left, widest interval: none" in lines
    scripted([rounds[0], *rounds], clock_step=10)
    add_rounds(group, SETTINGS, Limits(margin=1, seconds=0), lines.append)  # at least one
    assert group["models"]["a"]["seconds"] == [each["a"] for each in [*rounds[:9], rounds[0]]]
    assert group["wall_seconds"] == 100 + 20


def test_an_interrupted_group_has_its_complete_rounds(scripted):
    rounds = noisy_rounds(0.2)
    scripted([*rounds[:5], KeyboardInterrupt()])
    group = empty_group("image model", "a")
    with pytest.raises(KeyboardInterrupt):
        add_rounds(group, SETTINGS, Limits(margin=1, seconds=1e9), lambda line: None)
    assert group["models"]["a"]["seconds"] == [each["a"] for each in rounds[1:5]]
    assert group["models"]["image model"]["seconds"] == [1.0] * 4


def test_the_widest_interval_is_named():
    steady, shaky = [1.0] * 9, [0.9, 1.1] * 4 + [1.0]
    seconds = {"image model": [1.0] * 9, "steady": steady, "shaky": shaky}
    assert widest(time_ratios(seconds)) == "±10 % (shaky)"
    assert widest(time_ratios({"image model": [1.0]})) == "none"
