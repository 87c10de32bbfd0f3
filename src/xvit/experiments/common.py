"""What the experiments share: resuming, the videos of moving shapes, evaluation, time per clip, Markdown tables."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from xvit.config import DataConfig, RunConfig
from xvit.data.annotations import load_splits
from xvit.data.record import compare_splits, compare_versions, record_splits, record_versions
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.evaluation import Evaluation, evaluate, match_labels
from xvit.inference.predictor import Predictor
from xvit.utils.devices import default_device
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import atomic_write_text, check_new_directory, parse_json
from xvit.utils.text import read_text
from xvit.utils.timing import time_interleaved

CountCallback = Callable[[str, int, int], None]  # called with the current step, the number of items done, their total
State = TypeVar("State")

_logger = logging.getLogger("xvit")


def open_directory(path: Path, experiment: str, parse: Callable[[Any], State]) -> State | None:
    """The saved state of an experiment that is resumed, or None after creating the directory of a new one.

    Args:
        path: the JSON file with the state; its directory is the experiment's output.
        experiment: such as "a demo", for the message.
        parse: see `load_state`.

    Raises:
        XViTError: the directory holds something else, or the file is damaged.
    """
    if path.is_file():
        return load_state(path, parse)
    check_new_directory(path.parent, f"it has no {path.name} of {experiment} to resume; choose another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    return None


def load_state(path: Path, parse: Callable[[Any], State], advice: str = "choose another --output") -> State:
    """What `parse` makes of the contents of a JSON file; an error of both is reported as a damaged file."""
    try:
        return parse(parse_json(read_text(path)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise XViTError(f"{path}: damaged ({one_line(error, name=True)}); {advice}") from None


def write_videos(directory: Path, clips_per_class: int, seed: int, on_count: CountCallback) -> None:
    """Write the data set of moving shapes, unless an earlier run has."""
    if not directory.exists():  # it appears once all videos are written
        on_progress = partial(on_count, "writing videos")
        write_motion_dataset(directory, clips_per_class=clips_per_class, seed=seed, on_progress=on_progress)


def check_videos(directory: Path, data: DataConfig) -> None:
    """Check that the data set is the one with which an experiment was started, or record it for a new experiment.

    All parts of an experiment have to use the same videos, so that their results can be compared. The record, in the
    file videos.json beside the data set, also has the library versions and the device; others are logged.

    Raises:
        XViTError: the data set changed, or the record is damaged.
    """
    path = directory.with_name(f"{directory.name}.json")
    versions = record_versions(default_device())
    record = {"versions": versions, **record_splits(load_splits(data))}
    if not path.exists():
        atomic_write_text(path, json.dumps(record) + "\n")
        return

    def compare(before: dict[str, Any]) -> tuple[str, str]:
        changes = compare_splits(before, record, ("train", "val"))
        return changes, compare_versions(before["versions"], versions)

    changes, other_versions = load_state(path, compare)
    if changes:
        raise XViTError(
            f"{directory}: the data changed since the experiment was started: {changes}; undo these changes, or choose "
            "another --output"
        )
    if other_versions:
        warn_of_versions(directory.parent, other_versions)


def warn_of_versions(output: Path, other_versions: str) -> None:
    """Log that an experiment was started with other library versions, or on another device."""
    _logger.warning("%s: was started with %s: the results of its parts differ", output, other_versions)


def evaluate_held_out(
    predictor: Predictor, config: RunConfig, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Evaluate a model on the held-out videos of the data that it was trained on.

    The model should have the weights of the last epoch: the best weights were selected by these videos.
    """
    data = load_splits(config.data)
    result = evaluate(
        predictor,
        match_labels(data.val, data.class_names, predictor.class_names),
        eval_config=config.eval,
        num_workers=config.data.num_workers,
        on_progress=on_progress,
    )
    assert isinstance(result, Evaluation)  # single-label
    return result


def time_per_clip(predictors: Mapping[str, Predictor]) -> dict[str, list[float]]:
    """Milliseconds of each model for one clip, one value per round; in a round the models take turns."""
    clip_spec = next(iter(predictors.values())).clip_spec
    pixels = torch.zeros(1, 1, clip_spec.num_frames, 3, *[clip_spec.image_size] * 2, dtype=torch.uint8)
    steps = {name: partial(predictor.predict_probabilities, pixels) for name, predictor in predictors.items()}
    seconds = time_interleaved(steps, rounds=40, warm_up=5)
    return {name: [1000 * value for value in values] for name, values in seconds.items()}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
