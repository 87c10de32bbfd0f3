"""From a folder of clips to a model whose accuracy is known.

check the videos ─▶ cross-validate head ─▶ lora ─▶ full ─▶ choose ─▶ train on all videos ─▶ calibrate, report
                    (the next way only if it fits into the time)

DIR/head lora full    the cross-validation of each way that was compared (`xvit.training.folds`)
DIR/final             the run folder of the training on all videos; the model is in last/
DIR/result.json       the numbers of the report
DIR/report.md         the report, with pictures/

A stopped run goes on with the same command. Whatever is finished is not repeated.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from xvit.checkpoint import read_metadata
from xvit.checkpoint.format import store_calibration
from xvit.checkpoint.weights import weights_hash
from xvit.config import SINGLE_TASK, InitConfig, RunConfig
from xvit.data.annotations import DatasetSplits, Sample, load_splits
from xvit.data.dataset import describe_flip_pairs
from xvit.data.seen import count_seen
from xvit.data.tools.check import CheckReport, check_dataset
from xvit.evaluation import ScoredVideos
from xvit.evaluation.calibration import calibrate_scores
from xvit.experiments.finetune.report import write_report
from xvit.experiments.finetune.ways import WAYS, Comparison, Way, choose_way, expected_seconds, time_clip, way_recipe
from xvit.inference.predictor import Predictor
from xvit.models.backbone import resolve_clip_spec
from xvit.models.pretrained import WITHOUT_HUB, load_initial_weights
from xvit.models.xvit import XViT
from xvit.training import CrossValidation, Progress, check_recipe, cross_validate, fit
from xvit.training.folds import score_held_out
from xvit.training.frame_cache import FrameCache
from xvit.utils.checkpoint_path import resolve_bundled
from xvit.utils.devices import default_device
from xvit.utils.errors import XViTError
from xvit.utils.files import write_json
from xvit.utils.text import name_some

MAX_FOLDS = 5
SMALL_SIZES = (224, 112)  # pixels: some image models take larger images, which makes videos slow
_REPORT_SECONDS = 10.0  # kept for the report
_MIN_FOLDS = 0.1  # less than this part of a fold says too little about the time of the rest
_logger = logging.getLogger("xvit")
_OWN_FILE = "give it: --init FILE --backbone NAME"
_START_ADVICE = "Or start from a trained model: --init CHECKPOINT, or --init motion, which comes with xvit"


@dataclass(frozen=True, kw_only=True)
class FinetuneCallbacks:
    """Functions that are called while `finetune` runs; by default they do nothing.

    Args:
        on_message: with a line of text: what was found, what comes next and how long it is expected to take.
        on_count: with the name of a step, the number of videos done and their total.
        on_training: with the name of a training and its events.
    """

    on_message: Callable[[str], None] = lambda text: None
    on_count: Callable[[str, int, int], None] = lambda name, done, total: None
    on_training: Callable[[str, Progress], None] = lambda name, event: None


class _OverBudgetError(Exception):
    """A way turned out not to fit into the time that is left."""


class _Budget:
    """The time for a call of `finetune`.

    Args:
        seconds: for everything.
    """

    def __init__(self, seconds: float) -> None:
        self.end = monotonic() + seconds - _REPORT_SECONDS

    @property
    def left(self) -> float:
        """Seconds for trainings; negative if it is used up."""
        return self.end - monotonic()


def finetune(
    output: str | Path, recipe: RunConfig, *, minutes: float = 10.0, callbacks: FinetuneCallbacks | None = None
) -> dict[str, Any]:
    """Choose a way to fine-tune by cross-validation, train a model on all videos, and report.

    Args:
        output: a new folder, or that of an earlier call with the same recipe and videos, which is continued.
        recipe: the settings of all ways; `config.data` has the videos, `config.init` the weights to start from.
        minutes: time for this call. The head is compared and trained in any case, the other ways if they fit.
        callbacks: what to call meanwhile.

    Returns:
        What is in result.json.

    Raises:
        XViTError: no usable videos, weights that cannot be had, settings that do not go together, another recipe or
            other videos than before.
        Interrupted: Ctrl-C or SIGTERM; the same call continues.
    """
    output, callbacks, budget = Path(output), callbacks or FinetuneCallbacks(), _Budget(60 * minutes)
    check_recipe(recipe)
    given = load_splits(recipe.data)
    initial = _initial_model(recipe, given)  # first, since it finds weights that cannot be had
    clip_seconds, width, size = time_clip(initial), initial.backbone.num_features, initial.clip_spec.image_size
    del initial
    data, left_out = _check_videos(recipe, given, callbacks)
    folds = min(MAX_FOLDS, *Counter(sample.label for sample in data.train).values())
    if seen := _count_seen(recipe.init, data.train):
        source = recipe.init.checkpoint_path
        callbacks.on_message(f"{source} was trained on {seen} of these videos: their accuracy will be too high")
    if pairs := describe_flip_pairs(recipe.augment, data.class_names):
        callbacks.on_message(pairs)
    recipes = {way: way_recipe(recipe, way, videos=len(data.train), width=width) for way in WAYS}
    expect = partial(expected_seconds, videos=len(data.train), folds=folds, clip_seconds=clip_seconds)
    if not (output / "head").exists() and (advice := _advise_size(size, expect(recipes["head"]), budget)):
        callbacks.on_message(advice)
    with _warnings_only():  # of the trainings, which would all log the same
        results, skipped = _compare_ways(output, recipes, data, folds, budget, expect, callbacks)
        chosen, comparisons = choose_way(results)
        callbacks.on_message(f"chosen: {chosen}; training it on all {len(data.train)} videos")
        frames = FrameCache(output / "head" / "frames", train=data.train, val=data.train)  # those of the folds
        final = _train_final(output, recipes[chosen], data, frames, callbacks)
        own = _score_training_videos(final, recipes[chosen], data, frames)
    calibration = _calibrate(final, results[chosen], own, callbacks)
    result = {
        "model": str(final),
        "chosen": chosen,
        "videos": len(data.train),
        "left_out": left_out,
        "classes": {name: sum(s.label == index for s in data.train) for index, name in enumerate(data.class_names)},
        "ways": {way: _way_values(comparisons[way], validation) for way, validation in results.items()},
        "not_tried": skipped,
        "calibration": calibration,
        "report": str(output / "report.md"),
    }
    write_json(output / "result.json", result)
    write_report(output, result, results[chosen])
    return result


def _compare_ways(
    output: Path,
    recipes: Mapping[Way, RunConfig],
    data: DatasetSplits,
    folds: int,
    budget: _Budget,
    expect: Callable[[RunConfig], float],
    callbacks: FinetuneCallbacks,
) -> tuple[dict[Way, CrossValidation], dict[Way, float]]:
    """The results of the ways that fit into the time, and the seconds that each of the others would take."""
    results: dict[Way, CrossValidation] = {}
    skipped: dict[Way, float] = {}
    for way, recipe in recipes.items():
        comparison = _Comparison(output / way, recipe, data, folds, budget, callbacks)
        if not comparison.is_finished:
            expected = expect(recipe) * comparison.share_left
            late = f", more than the {_duration(budget.left)} left" if expected > budget.left else ""
            if way != "head" and (late or skipped):
                skipped[way] = expected
                callbacks.on_message(f"{way}: would take about {_duration(expected)}{late}: not compared")
                continue
            late += "; it is trained in any case" if late else ""
            callbacks.on_message(f"{way}: {folds} folds, expected to take about {_duration(expected)}{late}")
        try:
            results[way] = comparison.run()
        except _OverBudgetError:
            skipped[way] = comparison.expected
    return results, skipped


@dataclass
class _Comparison:
    """The cross-validation of one way, which ends early if it turns out to take too long."""

    folder: Path
    recipe: RunConfig
    data: DatasetSplits
    folds: int
    budget: _Budget
    callbacks: FinetuneCallbacks
    expected: float = 0.0  # seconds for the rest and the final training, once some of it is done
    _first: tuple[float, float] | None = field(default=None, init=False)  # folds done, and the time, at the first step

    @property
    def way(self) -> str:
        return self.recipe.train.tune

    @property
    def is_finished(self) -> bool:
        """Whether an earlier call has done it."""
        return (self.folder / "folds.json").exists()

    @property
    def share_left(self) -> float:
        """The part of the time for the folds and the final training that earlier calls have not spent."""
        done = sum((self.folder / f"fold_{number}" / "scores.json").exists() for number in range(1, self.folds + 1))
        return 1 - done / (self.folds + self._final_folds)

    @property
    def _final_folds(self) -> float:
        """The time of the training on all videos, in folds."""
        return self.folds / (self.folds - 1)

    def run(self) -> CrossValidation:
        validation = cross_validate(
            self.recipe,
            self.folder,
            folds=self.folds,
            resume=self.folder.exists(),
            on_progress=self._on_progress,
            on_fold=lambda result: self.callbacks.on_message(
                f"{self.way}, fold {result.fold} of {self.folds}: top-1 {100 * result.metrics['top1']:.1f} %"
            ),
            data=self.data,
        )
        self.callbacks.on_message(f"{self.way}: {validation.result}")
        return validation

    def _on_progress(self, fold: int, event: Progress) -> None:
        self.callbacks.on_training(f"{self.way}, fold {fold} of {self.folds}", event)
        if self.way == "head" or event.stage != "train":
            return
        done, now = fold - 1 + (event.epoch - 1 + event.step / event.steps) / event.epochs, monotonic()
        self._first = self._first or (done, now)
        if done - self._first[0] < _MIN_FOLDS:
            return
        per_fold = (now - self._first[1]) / (done - self._first[0])
        self.expected = per_fold * (self.folds - done + self._final_folds)
        if self.expected > self.budget.left:
            self.callbacks.on_message(
                f"{self.way}: would take {_duration(self.expected)} more, and {_duration(self.budget.left)} are left: "
                "not compared"
            )
            raise _OverBudgetError


def _check_videos(
    recipe: RunConfig, given: DatasetSplits, callbacks: FinetuneCallbacks
) -> tuple[DatasetSplits, list[str]]:
    """The usable videos, all of them for training, and the others with the reasons.

    Raises:
        XViTError: fewer than two classes, or than two usable videos of a class; several labels per video.
    """
    if not isinstance(given.class_names, list) or recipe.data.multi_label:
        raise XViTError(
            f"{recipe.data.root}: several tasks or labels per video: use xvit train --train.tune lora --folds 5"
        )
    everything = replace(given, train=given.train + given.val, val=[], test=[])
    report = check_dataset(
        everything,
        num_frames=1,  # shorter videos repeat frames
        num_workers=recipe.data.num_workers,
        decode_timeout=recipe.data.decode_timeout,
        on_progress=partial(callbacks.on_count, "checking videos"),
    )
    data, copies = _leave_out_copies(report)
    left_out, names = [*map(str, report.problems), *copies], given.class_names
    for reason in left_out:
        callbacks.on_message(f"left out: {reason}")
    counts = Counter(sample.label for sample in data.train)
    few = [name for index, name in enumerate(names) if counts[index] < 2]
    if few:
        raise XViTError(
            f"{recipe.data.root}: fewer than 2 usable videos of {name_some(few)}: add some, or remove the class"
        )
    listed = ", ".join(f"{name} {counts[index]}" for index, name in enumerate(names[:20]))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    callbacks.on_message(f"{len(data.train)} videos of {len(names)} classes: {listed}{more}")
    return data, left_out


def _leave_out_copies(report: CheckReport) -> tuple[DatasetSplits, list[str]]:
    """The usable videos, each once, and the others: of a copy in another fold, the answer would be known."""
    left_out, reasons = set[str](), []
    for copy in report.copies:
        if copy.where == "one class":
            left_out.add(copy.second)
            reasons.append(f"{copy.second}: a copy of {copy.first}")
        else:
            left_out |= {copy.first, copy.second}
            reasons.append(f"{copy.first} and {copy.second}: the same video in two classes")
    usable = [sample for sample in report.usable.train if sample.id not in left_out]
    return replace(report.usable, train=usable), reasons


def _initial_model(recipe: RunConfig, data: DatasetSplits) -> XViT:
    """The model with its initial weights, so that what is wrong with them is found at once."""
    model = XViT(replace(recipe.model, num_classes=len(data.class_names)))
    if recipe.init:
        try:
            load_initial_weights(model, recipe.init)
        except XViTError as error:
            reason = str(error).replace(WITHOUT_HUB, _OWN_FILE)  # the options of `xvit finetune`
            raise XViTError(f"{reason}. {_START_ADVICE}") from None
    model.clip_spec = resolve_clip_spec(recipe.clip, model.backbone)
    return model.to(default_device())


def _advise_size(size: int, seconds: float, budget: _Budget) -> str:
    """What smaller frames would save if the head alone takes too long; empty if it does not, or they are small."""
    times = {small: seconds * (small / size) ** 2 for small in SMALL_SIZES if small < size}
    if seconds <= budget.left or not times:
        return ""
    small = next((small for small, time in times.items() if time <= budget.left), min(times))
    return (
        f"frames have {size} x {size} pixels, and the head alone takes about {_duration(seconds)}: "
        f"with --image-size {small} and another --output, about {_duration(times[small])}"
    )


def _count_seen(init: InitConfig, samples: Sequence[Sample]) -> int:
    """How many of these videos the model that is started from was trained on."""
    if not init.checkpoint_path or not (directory := resolve_bundled(init.checkpoint_path)).is_dir():
        return 0
    return count_seen(read_metadata(directory).provenance, samples).get("train", 0)


def _way_values(comparison: Comparison, validation: CrossValidation) -> dict[str, Any]:
    """What the report says of a way."""
    seconds = sum(fold.seconds for fold in validation.folds)
    return {**asdict(comparison), **validation.to_dict(), "seconds": seconds}


def _train_final(
    output: Path, recipe: RunConfig, data: DatasetSplits, frames: FrameCache, callbacks: FinetuneCallbacks
) -> Path:
    """Train on all videos. Returns the checkpoint."""
    on_progress = partial(callbacks.on_training, "final model")
    folder = output / "final"
    return fit(recipe, folder, resume=folder.exists(), on_progress=on_progress, data=data, frames=frames).last


def _score_training_videos(
    checkpoint: Path, recipe: RunConfig, data: DatasetSplits, frames: FrameCache
) -> ScoredVideos:
    """The scores of the final model, without calibration, for the videos that it was trained on."""
    model = XViT.from_pretrained(checkpoint)
    model.calibration = {}
    return score_held_out(Predictor(model), recipe, replace(data, val=data.train), frames)


def _calibrate(
    checkpoint: Path, validation: CrossValidation, own: ScoredVideos, callbacks: FinetuneCallbacks
) -> dict[str, Any] | None:
    """Calibrate the final model by the scores of the folds; None if too few of them are right."""
    weights = weights_hash(XViT.from_pretrained(checkpoint).state_dict())
    try:
        measured = calibrate_scores(validation.scored, weights, own=own)
    except XViTError as error:
        callbacks.on_message(f"not calibrated: {error}")
        return None
    store_calibration(checkpoint, {task: result.calibration for task, result in measured.items()})
    return measured[SINGLE_TASK].to_dict()


@contextmanager
def _warnings_only() -> Iterator[None]:
    level = _logger.level
    _logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _logger.setLevel(level)


def _duration(seconds: float) -> str:
    return f"{math.ceil(max(seconds, 0))} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
