"""Writing scores in the file formats of challenges."""

import csv
import io
import json
import re
from pathlib import Path

import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict
from xvit.evaluation.scoring import ScoredVideos, describe_tasks
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text
from xvit.utils.text import spreadsheet_cell

_MAX_ACTIONS = 100  # best verb-noun pairs per video in EPIC-KITCHENS' JSON
_MAX_CLASSES = 5  # best classes per video in the CSV


def check_submission(path: str | Path, class_names: ClassNames, *, supervision: tuple[int, ...] = ()) -> None:
    """Check the arguments of `write_submission`, before the videos are scored.

    Raises:
        XViTError: another extension, tasks that the format does not have, or missing levels of supervision.
    """
    tasks, suffix = set(as_task_dict(class_names)), Path(path).suffix
    predicted = f"the model predicts {describe_tasks(class_names)}"
    if suffix not in (".json", ".csv"):
        raise XViTError(f"{path}: expected a name that ends with .json (EPIC-KITCHENS-100) or .csv (id, best classes)")
    if suffix == ".csv" and tasks != {SINGLE_TASK}:
        advice = "choose a name that ends with .json"
        raise XViTError(f"{path}: a CSV submission is for a single task, {predicted}: {advice}")
    if suffix == ".json" and tasks != {"verb", "noun"}:
        raise XViTError(f"{path}: a submission to EPIC-KITCHENS needs the tasks verb and noun, {predicted}")
    if suffix == ".json" and len(supervision) != 3:
        levels = "EPIC-KITCHENS' three levels: pretraining, training labels, training data"
        raise XViTError(f"supervision={supervision}: expected {levels}")


def write_submission(path: str | Path, scored: ScoredVideos, *, supervision: tuple[int, ...] = ()) -> None:
    """Write scores to a file, atomically, after `check_submission`. Videos that could not be read are left out.

    Args:
        path: .json for EPIC-KITCHENS-100's action recognition challenge (tasks verb and noun): the score of each
            class by its index, and the 100 best actions, each scored as verb score times noun score. .csv for a
            single task: id, then the five best classes and their scores, none of which is a formula in a spreadsheet.
        supervision: EPIC-KITCHENS' levels of supervision (pretraining, training labels, training data), for its JSON.
    """
    check_submission(path, scored.class_names, supervision=supervision)
    path = Path(path)
    text = _epic_json(scored, supervision) if path.suffix == ".json" else _best_classes_csv(scored)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)


def _epic_json(scored: ScoredVideos, supervision: tuple[int, ...]) -> str:
    verbs, nouns = scored.scores["verb"], scored.scores["noun"]
    results = {
        sample.id: {"verb": _by_index(verb), "noun": _by_index(noun), "action": _best_actions(verb, noun)}
        for sample, verb, noun in zip(scored.samples, verbs, nouns, strict=True)
    }
    levels = dict(zip(("sls_pt", "sls_tl", "sls_td"), supervision, strict=True))
    return json.dumps({"version": "0.2", "challenge": "action_recognition", **levels, "results": results})


def _by_index(scores: Tensor) -> dict[str, float]:
    return {str(index): score for index, score in enumerate(scores.tolist())}


def _best_actions(verb: Tensor, noun: Tensor) -> dict[str, float]:
    joint = torch.outer(verb, noun).flatten()  # (verbs nouns,)
    scores, indices = joint.topk(min(_MAX_ACTIONS, len(joint)))
    pairs = [divmod(index, len(noun)) for index in indices.tolist()]
    return {f"{v},{n}": score for (v, n), score in zip(pairs, scores.tolist(), strict=True)}


def _best_classes_csv(scored: ScoredVideos) -> str:
    names = as_task_dict(scored.class_names)[SINGLE_TASK]
    scores, indices = scored.scores[SINGLE_TASK].topk(min(_MAX_CLASSES, len(names)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{column}_{rank + 1}" for rank in range(scores.shape[1]) for column in ("class", "score")]
    writer.writerow(["id", *columns])
    for sample, row, best in zip(scored.samples, scores.tolist(), indices.tolist(), strict=True):
        pairs = [(spreadsheet_cell(names[index]), f"{score:.6f}") for index, score in zip(best, row, strict=True)]
        # One YouTube id in 64 begins with "-". A word alone is harmless, and a challenge must find it unchanged.
        id = sample.id if re.fullmatch(r"[\w-]+", sample.id) else spreadsheet_cell(sample.id)
        writer.writerow([id, *(value for pair in pairs for value in pair)])
    return text.getvalue()
