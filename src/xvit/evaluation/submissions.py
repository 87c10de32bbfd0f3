"""Scores as the files that challenges take."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict
from xvit.evaluation.multi_view import ScoredVideos
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text

_ACTIONS = 100  # of EPIC-KITCHENS: so many combinations of a verb and a noun are told, those with the highest scores
_CLASSES = 5  # of the CSV


def check_submission(path: str | Path, labels: ClassNames, *, supervision: tuple[int, ...] = ()) -> None:
    """See that `write_submission` can write such a file, before hours are spent on the scores.

    Args:
        path: .json for EPIC-KITCHENS-100's action recognition challenge, .csv for a single task.
        labels: the model's.
        supervision: EPIC's levels of supervision.

    Raises:
        XViTError: another ending, other tasks than the format has, no levels of supervision for EPIC.
    """
    tasks, kind = set(as_task_dict(labels)), Path(path).suffix
    found = ", ".join(sorted(filter(None, tasks))) or "one without a name"
    if kind not in (".json", ".csv"):
        raise XViTError(f"{path}: expected a name that ends with .json (EPIC-KITCHENS-100) or .csv (id, best classes)")
    if kind == ".csv" and tasks != {None}:
        raise XViTError(f"{path}: a submission as CSV is for a single task, not {found}: take a name with .json")
    if kind == ".json" and tasks != {"verb", "noun"}:
        raise XViTError(f"{path}: a submission to EPIC-KITCHENS needs the tasks verb and noun, not {found}")
    if kind == ".json" and len(supervision) != 3:
        raise XViTError(f"supervision={supervision}: expected EPIC's three levels: pretraining, labels, data")


def write_submission(path: str | Path, scored: ScoredVideos, *, supervision: tuple[int, ...] = ()) -> None:
    """Write scores to a file, whole or not at all. Videos that could not be read are not in it.

    Args:
        path: .json for EPIC-KITCHENS-100's action recognition challenge (tasks verb and noun): the scores of each
            class, by its number, and of the 100 best actions, a verb's score times a noun's. .csv for a single task:
            id, then the five best classes and their scores.
        scored: by `xvit.evaluation.score`.
        supervision: EPIC's levels of supervision (pretraining, training labels, training data), which its JSON holds.

    Raises:
        XViTError: as `check_submission`.
    """
    check_submission(path, scored.class_names, supervision=supervision)
    path = Path(path)
    text = _epic(scored, supervision) if path.suffix == ".json" else _best_classes(scored)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)


def _epic(scored: ScoredVideos, supervision: tuple[int, ...]) -> str:
    verbs, nouns = scored.scores["verb"], scored.scores["noun"]
    results = {
        sample.id: {"verb": _numbered(verb), "noun": _numbered(noun), "action": _actions(verb, noun)}
        for sample, verb, noun in zip(scored.samples, verbs, nouns, strict=True)
    }
    levels = dict(zip(("sls_pt", "sls_tl", "sls_td"), supervision, strict=True))
    return json.dumps({"version": "0.2", "challenge": "action_recognition", **levels, "results": results})


def _numbered(scores: Tensor) -> dict[str, float]:
    return {str(number): value for number, value in enumerate(scores.tolist())}


def _actions(verb: Tensor, noun: Tensor) -> dict[str, float]:
    joint = torch.outer(verb, noun).flatten()  # (verbs nouns,)
    values, places = joint.topk(min(_ACTIONS, len(joint)))
    numbers = [divmod(place, len(noun)) for place in places.tolist()]
    return {f"{v},{n}": value for (v, n), value in zip(numbers, values.tolist(), strict=True)}


def _best_classes(scored: ScoredVideos) -> str:
    names = as_task_dict(scored.class_names)[SINGLE_TASK]
    values, places = scored.scores[SINGLE_TASK].topk(min(_CLASSES, len(names)))
    text = io.StringIO()
    rows: Any = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", *(f"{what}_{rank + 1}" for rank in range(values.shape[1]) for what in ("class", "score"))])
    for sample, row, best in zip(scored.samples, values.tolist(), places.tolist(), strict=True):
        pairs = [(names[place], f"{value:.6f}") for place, value in zip(best, row, strict=True)]
        rows.writerow([sample.id, *(word for pair in pairs for word in pair)])
    return text.getvalue()
