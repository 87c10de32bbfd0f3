"""Interleaved timing."""

from collections import Counter
from itertools import islice, pairwise

from xvit.utils.timing import interleaved_rounds, time_interleaved


def calls_of(measure) -> list[str]:
    """The names in the order in which `measure` calls the functions it is given."""
    calls: list[str] = []
    measure({name: (lambda name=name: calls.append(name)) for name in "abcd"})
    return calls


def test_each_round_calls_each_function_once_in_a_new_order():
    calls = calls_of(lambda functions: list(islice(interleaved_rounds(functions), 400)))
    rounds = [calls[start : start + 4] for start in range(0, 1600, 4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len({tuple(order) for order in rounds}) == 24  # all orders there are
    after = Counter(pair for order in rounds for pair in pairwise(order))
    assert len(after) == 12  # each function follows each other one ...
    assert max(after.values()) < 1.5 * min(after.values())  # ... about equally often
    assert calls == calls_of(lambda functions: list(islice(interleaved_rounds(functions), 400)))


def test_the_times_are_those_of_the_function(monkeypatch):
    clock = 0.0

    def work(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr("xvit.utils.timing.time.perf_counter", lambda: clock)
    functions = {"slow": lambda: work(3.0), "fast": lambda: work(0.5)}
    assert time_interleaved(functions, rounds=4, warm_up=2) == {"slow": [3.0] * 4, "fast": [0.5] * 4}
    assert clock == 6 * 3.5
    assert list(next(interleaved_rounds(functions))) == ["slow", "fast"]
