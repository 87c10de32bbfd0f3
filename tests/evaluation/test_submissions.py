"""Submission files against the definitions of their formats."""

import csv
import json

import numpy as np
import pytest
import torch

from xvit.config import SINGLE_TASK
from xvit.data.annotations.samples import Sample
from xvit.evaluation import ScoredVideos, write_submission
from xvit.utils.errors import XViTError


def make_scored(scores, class_names) -> ScoredVideos:
    rows = len(next(iter(scores.values())))
    return ScoredVideos(
        samples=[Sample(path=f"{i}.mp4", label=None, id=f"P01_{i}") for i in range(rows)],
        scores=scores,
        class_names=class_names,
        failures=[("bad", "bad.mp4", "no video")],
        temporal_views=1,
        spatial_views=1,
        seconds=0.0,
    )


def random_scores(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(shape[1])).softmax(-1)


def test_epic_kitchens_json(tmp_path):
    verbs, nouns = random_scores(2, 12), random_scores(2, 15)
    class_names = {"verb": [f"v{i}" for i in range(12)], "noun": [f"n{i}" for i in range(15)]}
    scored = make_scored({"verb": verbs, "noun": nouns}, class_names)
    write_submission(tmp_path / "test.json", scored, supervision=(2, 3, 4))
    document = json.loads((tmp_path / "test.json").read_text())
    results = document.pop("results")
    expected = {"version": "0.2", "challenge": "action_recognition", "sls_pt": 2, "sls_tl": 3, "sls_td": 4}
    assert document == expected
    assert list(results) == ["P01_0", "P01_1"]
    for row, result in enumerate(results.values()):
        assert result["verb"] == pytest.approx({str(v): float(verbs[row, v]) for v in range(12)})
        assert result["noun"] == pytest.approx({str(n): float(nouns[row, n]) for n in range(15)})
        products = {f"{v},{n}": float(verbs[row, v] * nouns[row, n]) for v in range(12) for n in range(15)}
        best = sorted(products, key=lambda pair: -products[pair])[:100]
        assert result["action"] == pytest.approx({pair: products[pair] for pair in best})


def test_csv_of_the_best_classes(tmp_path):
    values = random_scores(3, 7)
    names = [f'a "{i}", b' for i in range(7)]
    write_submission(tmp_path / "test.csv", make_scored({SINGLE_TASK: values}, names))
    with (tmp_path / "test.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["id", "class_1", "score_1"]
    for row, line in enumerate(rows):
        order = np.argsort(-values[row].numpy())[:5]
        assert line[1::2] == [names[index] for index in order]
        assert [float(score) for score in line[2::2]] == pytest.approx(values[row, order].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test.xml", {}, r"test.xml: expected a name that ends with .json .* or .csv"),
        (
            "test.json",
            {"supervision": (1, 2, 3)},
            "needs the tasks verb and noun, the model predicts a single unnamed task",
        ),
    ],
)
def test_formats_that_do_not_fit_the_model(name, options, message, tmp_path):
    with pytest.raises(XViTError, match=message):
        write_submission(tmp_path / name, make_scored({SINGLE_TASK: random_scores(1, 3)}, list("abc")), **options)
    tasks = {"verb": random_scores(1, 3), "noun": random_scores(1, 3)}
    both = make_scored(tasks, {"verb": list("abc"), "noun": list("abc")})
    with pytest.raises(XViTError, match=r"supervision=\(\): expected EPIC-KITCHENS' three levels"):
        write_submission(tmp_path / "test.json", both)
    with pytest.raises(XViTError, match="for a single task, the model predicts the tasks noun, verb"):
        write_submission(tmp_path / "test.csv", both)
    assert not list(tmp_path.iterdir())


def test_no_cell_of_the_csv_is_a_formula_in_a_spreadsheet(tmp_path):
    """Ids of YouTube may begin with a hyphen: they are no formulas, and must stay as they are."""
    scored = make_scored({SINGLE_TASK: torch.tensor([[0.7, 0.3]] * 3)}, ["=1+1", "walk"])
    ids = ["-0aB_c-dE", "-1+1", "@SUM(A1)"]
    scored.samples[:] = [Sample(path="v.mp4", label=None, id=id) for id in ids]
    write_submission(tmp_path / "test.csv", scored)
    with (tmp_path / "test.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == ["-0aB_c-dE", "'-1+1", "'@SUM(A1)"]
    assert [row[1::2] for row in rows] == [["'=1+1", "walk"]] * 3
