"""The table of symmetries: docs/guides/order.md shows docs/results/order.json, and these follow from the schemes."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import order

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = json.loads((DOCS / "results" / "order.json").read_text(encoding="utf-8"))
SETS = {"spatial", "spatial, mean", "spatial, position in the head", "spatial, summary token", "joint", "divided"}
SETS |= {"TimeSformer"} | {f"{scheme}, no position" for scheme in ("spatial", "joint", "divided")}


def symmetries(states: dict, state: str) -> set[str]:
    """The orders that change no logit."""
    return {kind for kind, change in states[state].items() if change < order.ROUNDING}


def test_the_document_has_the_measured_numbers():
    lines = (DOCS / "guides" / "order.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(f"| {' | '.join(order.COLUMNS)} |")
    table = list(order.report(MEASURED))
    assert list(MEASURED["models"]) == list(order.SCHEMES)
    assert lines[start : start + len(table)] == table
    assert not lines[start + len(table)]
    assert "| spatial, mean | 0 | 0 | 0 | 0.3 |" in table[3]


def test_what_is_a_symmetry_follows_from_the_scheme():
    for name, states in MEASURED["models"].items():
        initial, always = symmetries(states, "initial"), symmetries(states, "any_weights")
        assert always <= initial, name
        assert (initial == set(order.ORDERS)) == (name in SETS), name
        assert bool(always) <= name.endswith("no position"), name
        assert ("reversed" in initial) == name.startswith(("spatial", "joint", "divided", "local", "TimeS")), name
        assert "shuffled" not in initial or name in SETS, name
    assert symmetries(MEASURED["models"]["local, no position"], "any_weights") == {"reversed"}
    assert symmetries(MEASURED["models"]["mixing, replicate, no position"], "any_weights") == {"shifted"}
    assert symmetries(MEASURED["models"]["mixing, causal, no position"], "any_weights") == {"shifted"}
    assert symmetries(MEASURED["models"]["mixing, no position"], "any_weights") == set()  # zeros at the edges


@pytest.mark.parametrize("name", ["local, no position", "mixing, causal, no position", "TimeSformer"])
def test_models_are_measured_again(name, monkeypatch):
    """One clip is enough for the symmetries."""
    monkeypatch.setattr(order, "NUM_CLIPS", 1)
    clips, model = order.draw_clips(), order.build(name)
    for state in order.STATES:
        changes = {state: order.measure(model, clips)}
        assert symmetries(changes, state) == symmetries(MEASURED["models"][name], state)
        order.add_noise(model)


def test_an_event_is_moved_by_one_frame():
    clips = order.draw_clips(2)["shifted"]
    still = clips[:, 0]
    is_event = [bool((clips[:, t] != still).any()) for t in range(order.NUM_FRAMES)]
    assert is_event == [False] * 7 + [True] * 2 + [False] * 7
