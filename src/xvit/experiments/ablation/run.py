"""Train and measure the models of the ablation study. Every finished training is saved, so a stopped run can resume.

DIR/settings.json           the settings that all trainings share
DIR/videos/                 the synthetic data set
DIR/<model>/seed_0/         one training: result.json once it has finished, its weights in last/
DIR/ablation.json .md .png  the results
"""

import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xvit.config import RunConfig, from_dict, model_config, to_dict
from xvit.data.annotations import load_splits
from xvit.data.synthetic.motion import write_motion_dataset
from xvit.evaluation import evaluate, match_labels
from xvit.experiments.ablation.grid import BASE_OPTIONS, MODEL_OPTIONS, TABLES, models_in
from xvit.inference.predictor import Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training import fit
from xvit.utils.errors import XViTError, check_choice, check_range, one_line
from xvit.utils.files import atomic_write_text, check_new_directory
from xvit.utils.parallel import check_stop, parallel_map
from xvit.utils.timing import one_thread, time_interleaved

CLIPS_PER_CLASS = 240
SEEDS = 3
_SETTINGS_FILE, _RESULT_FILE = "settings.json", "result.json"
_TIMING_ROUNDS, _WARM_UP_ROUNDS = 40, 5


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training.

    Args:
        top1: top-1 accuracy on the held-out videos, in [0, 1], with the weights of the last epoch. The best weights are
            not used: these videos selected them.
        videos: number of held-out videos.
        seconds: duration of the training.

    Raises:
        XViTError: a value out of its range.
    """

    top1: float
    videos: int
    seconds: float

    def __post_init__(self) -> None:
        check_range("top1", self.top1, 0, 1)
        check_range("videos", self.videos, 1)
        check_range("seconds", self.seconds, 0)


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """Accuracy and cost of one model.

    Args:
        top1: top-1 accuracy for each seed, in [0, 1].
        parameters: number of parameters.
        macs: multiply-adds per clip.
        ms_per_clip: median milliseconds per clip on one core.
        quartiles: first and third quartile of the milliseconds per clip.
    """

    top1: tuple[float, ...]
    parameters: int
    macs: int
    ms_per_clip: float
    quartiles: tuple[float, float]

    @property
    def mean(self) -> float:
        """Mean top-1 over the seeds."""
        return statistics.mean(self.top1)

    @property
    def std(self) -> float | None:
        """Standard deviation of top-1 over the seeds; None for a single seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None


@dataclass(frozen=True)
class _Job:
    directory: Path
    config: RunConfig


@one_thread()
def run_ablation(
    output: str | Path,
    *,
    recipe: RunConfig,
    tables: Sequence[str] = tuple(TABLES),
    seeds: int = SEEDS,
    jobs: int = 1,
    clips_per_class: int = CLIPS_PER_CLASS,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, ModelResult]:
    """Train and measure the models of some tables.

    Args:
        output: a new or empty directory, or the directory of an ablation with the same recipe and videos, which is
            resumed.
        recipe: the settings that all trainings share; its data.root and train.seed are not used.
        tables: keys of `TABLES`.
        seeds: trainings per model.
        jobs: trainings that run at the same time, with one thread each.
        clips_per_class: videos per class of the data set; a fifth of them is held out.
        on_progress: called with the name of the current step, the number of items done and their total.

    Returns:
        The result of each model of the tables, by its key in `MODEL_OPTIONS`.

    Raises:
        XViTError: an unknown table, a number out of its range, a directory that holds something else or was made with
            other settings, a damaged result file.
    """
    for table in tables:
        check_choice("tables", table, TABLES)
    check_range("seeds", seeds, 1)
    check_range("jobs", jobs, 1)
    check_range("clips_per_class", clips_per_class, 3)  # one of three is held out
    output = Path(output)
    on_progress = on_progress or (lambda name, done, total: None)
    videos = output / "videos"
    # Each training has one core: it loads its own data, and validates only after the last epoch.
    data = replace(recipe.data, root=str(videos), num_workers=0)
    recipe = replace(recipe, data=data, train=replace(recipe.train, eval_every=recipe.train.epochs))
    _open_output(output, recipe, clips_per_class)
    if not videos.exists():  # the directory appears once all videos are written
        write_motion_dataset(
            videos, clips_per_class=clips_per_class, seed=0, on_progress=partial(on_progress, "writing videos")
        )
    top1 = _train_models(output, recipe, models_in(tables), seeds, jobs, partial(on_progress, "training"))
    return _measure_models(output, top1, partial(on_progress, "timing"))


def row_config(recipe: RunConfig, model: str, seed: int) -> RunConfig:
    """The recipe of one training: a model of `MODEL_OPTIONS` and a seed."""
    options = BASE_OPTIONS | MODEL_OPTIONS[model]
    return replace(recipe, model=model_config(recipe.model, **options), train=replace(recipe.train, seed=seed))


def _open_output(output: Path, recipe: RunConfig, clips_per_class: int) -> None:
    """Create the output directory, or check that it holds an ablation with these settings."""
    path = output / _SETTINGS_FILE
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            # Compared as configs: a file of an earlier version lacks the settings that were added later.
            settings = (_without_root(from_dict(RunConfig, saved["recipe"], path)), saved["clips_per_class"])
        except (ValueError, TypeError, KeyError) as error:
            raise XViTError(f"{path}: damaged ({one_line(error)}); choose another directory") from None
        if settings != (_without_root(recipe), clips_per_class):
            raise XViTError(
                f"{output}: holds an ablation with other settings (see {_SETTINGS_FILE}); choose another directory"
            )
        return
    check_new_directory(output, f"it has no {_SETTINGS_FILE} of an ablation to resume; choose another directory")
    output.mkdir(parents=True, exist_ok=True)
    _write_json(path, {"recipe": to_dict(recipe), "clips_per_class": clips_per_class})


def _without_root(recipe: RunConfig) -> RunConfig:
    """The recipe without the path of the videos, so that the output directory may be moved or renamed."""
    return replace(recipe, data=replace(recipe.data, root=""))


def _model_directory(output: Path, model: str) -> Path:
    return output / re.sub(r"[^a-z0-9]+", "_", model.replace("%", "percent")).strip("_")


def _train_models(
    output: Path, recipe: RunConfig, models: list[str], seeds: int, jobs: int, on_progress: Callable[[int, int], None]
) -> dict[str, tuple[float, ...]]:
    """Run the trainings that have no saved result, and return the top-1 accuracy of each model for each seed."""
    planned = {
        (model, seed): _Job(_model_directory(output, model) / f"seed_{seed}", row_config(recipe, model, seed))
        for seed in range(seeds)  # all models of one seed first: a stopped run then has complete tables
        for model in models
    }
    # All saved results are read before the first training starts, so that a damaged one is reported at once.
    results = {key: result for key, job in planned.items() if (result := _read_result(job)) is not None}
    missing = [key for key in planned if key not in results]
    trained = parallel_map(_train, [planned[key] for key in missing], num_workers=jobs, on_progress=on_progress)
    results |= zip(missing, trained, strict=True)
    return {model: tuple(results[model, seed].top1 for seed in range(seeds)) for model in models}


def _read_result(job: _Job) -> TrainingResult | None:
    path = job.directory / _RESULT_FILE
    if not path.is_file():
        return None
    try:
        return TrainingResult(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise XViTError(f"{path}: damaged ({one_line(error)}); delete {job.directory} to train it again") from None


@one_thread()
def _train(job: _Job) -> TrainingResult:
    start = time.perf_counter()
    fit(job.config, job.directory, resume=True, on_progress=lambda progress: check_stop())
    predictor, data = Predictor(job.directory / "last", device="cpu"), load_splits(job.config.data)
    samples = match_labels(data.val, data.class_names, predictor.class_names)
    evaluation = evaluate(predictor, samples, eval_config=job.config.eval)
    seconds = round(time.perf_counter() - start, 1)
    result = TrainingResult(top1=evaluation.metrics["top1"], videos=evaluation.videos, seconds=seconds)
    _write_json(job.directory / _RESULT_FILE, asdict(result))
    for name in ("best", "state"):  # no longer needed
        shutil.rmtree(job.directory / name)
    return result


def _measure_models(
    output: Path, top1: Mapping[str, tuple[float, ...]], on_progress: Callable[[int, int], None]
) -> dict[str, ModelResult]:
    """Count parameters and multiply-adds, and time one clip in rounds in which the models take turns."""
    models = {name: XViT.from_pretrained(_model_directory(output, name) / "seed_0" / "last") for name in top1}
    on_progress(0, len(models))
    clip_spec = next(iter(models.values())).clip_spec
    size = clip_spec.image_size
    pixels = torch.zeros(1, 1, clip_spec.num_frames, 3, size, size, dtype=torch.uint8)
    steps = {name: partial(Predictor(model).predict_probabilities, pixels) for name, model in models.items()}
    seconds = time_interleaved(steps, rounds=_TIMING_ROUNDS, warm_up=_WARM_UP_ROUNDS)
    on_progress(len(models), len(models))
    results = {}
    for name, model in models.items():
        first, median, third = statistics.quantiles([1000 * value for value in seconds[name]], n=4)
        results[name] = ModelResult(
            top1=top1[name],
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            macs=count_macs(model, image_size=size),
            ms_per_clip=median,
            quartiles=(first, third),
        )
    return results


def _write_json(path: Path, value: dict[str, Any]) -> None:
    atomic_write_text(path, json.dumps(value, indent=2) + "\n")
