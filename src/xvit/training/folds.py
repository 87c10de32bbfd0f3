"""Cross-validation: every video is predicted once, by a model that was not trained on it.

fold_1/            a training on the other folds: a run folder (`run_dir`), without its states once it is done
fold_1/scores.json the scores of its held-out videos
frames/            with train.tune=head, the frame vectors that all folds share
folds.json         the result
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xvit.config import RunConfig, to_dict, unwrap_single_task
from xvit.data.annotations import DatasetSplits, Sample, load_splits
from xvit.data.folds import split_folds
from xvit.data.record import record_hash, record_splits
from xvit.data.statistics import learn_sampling
from xvit.evaluation import Evaluation, MultiLabelEvaluation, ScoredVideos, compute_metrics, score_videos
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.training.engine import fit
from xvit.training.frame_cache import FrameCache, FrameReader, score_frames
from xvit.training.logger import Progress
from xvit.utils import distributed
from xvit.utils.errors import XViTError
from xvit.utils.files import check_new_directory, holds_something, read_json, write_json
from xvit.utils.timing import cpu_seconds

_SCORES, RESULT = "scores.json", "folds.json"
FoldCallback = Callable[[int, Progress], None]  # called with the number of the fold, from 1, and an event of `fit`


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """One fold.

    Args:
        fold: its number, from 1.
        metrics: as in `FitResult`.
        seconds: wall time.
        cpu_seconds: processor time.
    """

    fold: int
    metrics: dict[str, float]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossValidation:
    """The result of `cross_validate`.

    Args:
        scored: the scores of all videos that could be read, each by the model of another fold.
        fold_of: the fold of each of these videos, from 1.
        result: their metrics.
        folds: the folds.
    """

    scored: ScoredVideos
    fold_of: list[int]
    result: Evaluation | MultiLabelEvaluation
    folds: list[FoldResult]

    def to_dict(self) -> dict[str, Any]:
        """Metrics, folds and the prediction for each video, as plain values."""
        scores = {task: values.tolist() for task, values in self.scored.scores.items()}
        rows = [
            {
                **row,
                "fold": self.fold_of[index],
                "scores": unwrap_single_task({task: values[index] for task, values in scores.items()}),
            }
            for index, row in enumerate(self.result.rows())
        ]
        return {**self.result.to_dict(), "folds": [asdict(fold) for fold in self.folds], "predictions": rows}


def cross_validate(
    config: RunConfig,
    output: str | Path,
    *,
    folds: int = 5,
    resume: bool = False,
    on_progress: FoldCallback | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
    data: DatasetSplits | None = None,
    frames: FrameCache | None = None,
) -> CrossValidation:
    """Train a model for each fold on the videos of the other folds, and predict those of the fold with it.

    The folds are of all training and validation videos; test videos are not read. Each training has the fixed number of
    epochs of the recipe, and its last weights predict: nothing is chosen by the held-out videos, so the result tends to
    be neither too high nor, apart from the smaller number of training videos, too low. The views are those of
    `config.eval`.

    Args:
        config: the recipe of all folds; `config.data.split_seed` seeds the division.
        output: a new folder, or with `resume` one of the same cross-validation.
        folds: their number.
        resume: go on in `output`: finished folds are kept, an unfinished one is resumed.
        on_progress: called with the number of the fold and the events of its training.
        on_fold: called with the result of each fold.
        data: the videos, in place of those of `config.data`.
        frames: with train.tune=head, frame vectors of these videos that are shared with other trainings.

    Raises:
        XViTError: as `fit` and `split_folds`; a folder that holds something else.
        Interrupted: as `fit`.
    """
    if distributed.world_size() > 1:
        raise XViTError("folds: cross-validation runs in one process; start it without torchrun")
    output = Path(output)
    if not (resume and output.is_dir()):
        check_new_directory(output, "continue what is in it with --resume, or choose another --output")
    data = load_splits(config.data) if data is None else data
    samples = data.train + data.val
    clip = learn_sampling(config.clip, samples, timeout=config.data.decode_timeout, num_workers=config.data.num_workers)
    config = replace(config, clip=clip, train=replace(config.train, eval_every=config.train.epochs))
    if frames is None:
        frames = FrameCache(output / "frames", train=samples, val=samples)
    parts: dict[int, ScoredVideos] = {}
    results = []
    for number, held_out in enumerate(split_folds(samples, folds, seed=config.data.split_seed), start=1):
        chosen = set(held_out)
        train = [sample for index, sample in enumerate(samples) if index not in chosen]
        splits = replace(data, train=train, val=[samples[index] for index in held_out], test=[])
        parts[number], result = _run_fold(config, output / f"fold_{number}", number, splits, frames, on_progress)
        results.append(result)
        if on_fold is not None:
            on_fold(result)
    validation = _join(parts, results)
    write_json(output / RESULT, validation.to_dict())
    return validation


def _run_fold(
    config: RunConfig,
    folder: Path,
    number: int,
    data: DatasetSplits,
    frames: FrameCache,
    on_progress: FoldCallback | None,
) -> tuple[ScoredVideos, FoldResult]:
    """Train and predict a fold, or read what an earlier process predicted."""
    settings = to_dict(config)
    for group, name in (("data", "num_workers"), ("train", "save_minutes")):  # which do not influence the result
        del settings[group][name]
    key, path = record_hash([settings, record_splits(data)]), folder / _SCORES
    if not path.exists():
        started, cpu_started = time.monotonic(), cpu_seconds()
        on_event = None if on_progress is None else partial(on_progress, number)
        resume = holds_something(folder)
        fitted = fit(config, folder, resume=resume, on_progress=on_event, data=data, frames=frames)
        scored = score_held_out(Predictor(fitted.last), config, data, frames)
        times = {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds() - cpu_started}
        write_json(path, {"key": key, **times, **_to_values(scored, data.val)})
        shutil.rmtree(folder / "state")
    return _read_fold(path, key, number, config, data)


def score_held_out(predictor: Predictor, config: RunConfig, data: DatasetSplits, frames: FrameCache) -> ScoredVideos:
    """Score the validation videos of `data`; from their frame vectors if those are what the predictor would compute."""
    views = (config.eval.temporal_views, config.eval.spatial_views)
    if config.train.tune == "head" and views == (1, 1) and config.train.precision == "fp32":
        assert isinstance(predictor.model, XViT)
        reader = FrameReader(model=predictor.model, config=config, class_names=data.class_names)
        return score_frames(predictor.model, frames, reader, data.val)
    return score_videos(
        predictor,
        data.val,
        eval_config=config.eval,
        num_workers=config.data.num_workers,
        decode_timeout=config.data.decode_timeout,
    )


def _read_fold(
    path: Path, key: str, number: int, config: RunConfig, data: DatasetSplits
) -> tuple[ScoredVideos, FoldResult]:
    values = read_json(path)
    try:
        scored = _from_values(values, config, data) if values["key"] == key else None
        times = {name: float(values[name]) for name in ("seconds", "cpu_seconds")}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise XViTError(f"{path}: damaged; remove it and run the same again") from None
    if scored is None:
        raise XViTError(f"{path.parent}: was made with another recipe or other videos; choose another --output")
    return scored, FoldResult(fold=number, metrics=compute_metrics(scored).metrics, **times)


def _to_values(scored: ScoredVideos, samples: list[Sample]) -> dict[str, Any]:
    positions = {id(sample): position for position, sample in enumerate(samples)}
    return {
        "read": [positions[id(sample)] for sample in scored.samples],
        "scores": {task: values.tolist() for task, values in scored.scores.items()},
        "failures": scored.failures,
        "warnings": scored.warnings,
    }


def _from_values(values: Mapping[str, Any], config: RunConfig, data: DatasetSplits) -> ScoredVideos:
    return ScoredVideos(
        samples=[data.val[position] for position in values["read"]],
        scores={task: torch.tensor(scores) for task, scores in values["scores"].items()},
        class_names=data.class_names,
        failures=[(id, path, reason) for id, path, reason in values["failures"]],
        warnings=[(id, path, tuple(texts)) for id, path, texts in values["warnings"]],
        temporal_views=config.eval.temporal_views,
        spatial_views=config.eval.spatial_views,
        seconds=float(values["seconds"]),
    )


def _join(parts: Mapping[int, ScoredVideos], folds: list[FoldResult]) -> CrossValidation:
    """The folds as one result, the videos in the order of the folds."""
    first = parts[1]
    scored = replace(
        first,
        samples=[sample for part in parts.values() for sample in part.samples],
        scores={task: torch.cat([part.scores[task] for part in parts.values()]) for task in first.scores},
        failures=[failure for part in parts.values() for failure in part.failures],
        warnings=[warning for part in parts.values() for warning in part.warnings],
        seconds=sum(part.seconds for part in parts.values()),
    )
    fold_of = [number for number, part in parts.items() for _ in part.samples]
    return CrossValidation(scored=scored, fold_of=fold_of, result=compute_metrics(scored), folds=folds)
