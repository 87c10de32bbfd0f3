"""Train and measure the models of the ablation study. Every finished training is saved, so a stopped run can resume.

DIR/settings.json           the settings that all trainings share
DIR/videos/                 the synthetic data set; its record is in DIR/videos.json
DIR/<model>/seed_0/         one training: result.json once it has finished, its weights in last/
DIR/ablation.json .md .png  the results
"""

import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xvit.config import RunConfig, describe_change, model_config, stored_recipe, to_dict
from xvit.experiments import common
from xvit.experiments.ablation.grid import BASE_OPTIONS, MODEL_OPTIONS, TABLES
from xvit.inference.predictor import Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training import fit
from xvit.utils.errors import XViTError, check_choice, check_range
from xvit.utils.files import write_json
from xvit.utils.parallel import check_stop, parallel_map
from xvit.utils.timing import one_thread

CLIPS_PER_CLASS = 240
_SETTINGS_FILE, _RESULT_FILE = "settings.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training: `top1` on the held-out `videos` in [0, 1], and the duration in `seconds`.

    The weights are those of the last epoch. The best weights are not used: these videos selected them.

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


@one_thread()
def run_ablation(
    output: str | Path,
    *,
    recipe: RunConfig,
    tables: Sequence[str] = tuple(TABLES),
    seeds: int = 3,
    jobs: int = 1,
    clips_per_class: int = CLIPS_PER_CLASS,
    on_progress: common.CountCallback = lambda step, done, total: None,
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
    # Each training has one core: it loads its own data, and validates only after the last epoch.
    data = replace(recipe.data, root=str(output / "videos"), num_workers=0)
    recipe = replace(recipe, data=data, train=replace(recipe.train, eval_every=recipe.train.epochs))
    _open_output(output, recipe, clips_per_class)
    common.write_videos(output / "videos", clips_per_class, 0, on_progress)
    common.check_videos(output / "videos", recipe.data)
    used = {row.model for table in tables for row in TABLES[table].rows}
    models = [model for model in MODEL_OPTIONS if model in used]  # each once, in this order
    top1 = _train_models(output, recipe, models, seeds, jobs, partial(on_progress, "training"))
    on_progress("timing", 0, len(models))
    results = _measure_models(output, top1)
    on_progress("timing", len(models), len(models))
    return results


def row_config(recipe: RunConfig, model: str, seed: int) -> RunConfig:
    """The recipe of one training: a model of `MODEL_OPTIONS` and a seed."""
    options = BASE_OPTIONS | MODEL_OPTIONS[model]
    return replace(recipe, model=model_config(recipe.model, **options), train=replace(recipe.train, seed=seed))


def _open_output(output: Path, recipe: RunConfig, clips_per_class: int) -> None:
    """Create the output directory, or check that it holds an ablation with these settings."""
    path = output / _SETTINGS_FILE

    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class}

    def compare(saved: dict[str, Any]) -> str:
        # Read as a config: a file of an earlier version lacks the settings that were added later.
        before = {**saved, "recipe": to_dict(stored_recipe(saved["recipe"], path))}
        return describe_change(before, settings, ["recipe.data.root"])  # the directory may be moved or renamed

    change = common.open_directory(path, "an ablation", compare)
    if change is None:
        write_json(path, settings)
    elif change:
        raise XViTError(f"{output}: holds an ablation with other settings: {change}; choose another --output")


def _training_directory(output: Path, model: str, seed: int) -> Path:
    name = re.sub(r"[^a-z0-9]+", "_", model.replace("%", "percent")).strip("_")
    return output / name / f"seed_{seed}"


def _train_models(
    output: Path, recipe: RunConfig, models: list[str], seeds: int, jobs: int, on_progress: Callable[[int, int], None]
) -> dict[str, tuple[float, ...]]:
    """Run the trainings that have no saved result, and return the top-1 accuracy of each model for each seed."""
    planned = {
        (model, seed): (_training_directory(output, model, seed), row_config(recipe, model, seed))
        for seed in range(seeds)  # all models of one seed first: a stopped run then has complete tables
        for model in models
    }
    # All saved results are read before the first training starts, so that a damaged one is reported at once.
    results = {
        key: common.load_state(path, lambda values: TrainingResult(**values), f"delete {directory} to train it again")
        for key, (directory, _) in planned.items()
        if (path := directory / _RESULT_FILE).is_file()
    }
    missing = [key for key in planned if key not in results]
    trained = parallel_map(_train, [planned[key] for key in missing], num_workers=jobs, on_progress=on_progress)
    results |= zip(missing, trained, strict=True)
    return {model: tuple(results[model, seed].top1 for seed in range(seeds)) for model in models}


@one_thread()
def _train(job: tuple[Path, RunConfig]) -> TrainingResult:
    directory, config = job
    start = time.perf_counter()
    fit(config, directory, resume=directory.exists(), on_progress=lambda progress: check_stop())
    evaluation = common.evaluate_held_out(Predictor(directory / "last", device="cpu"), config)
    seconds = round(time.perf_counter() - start, 1)
    result = TrainingResult(top1=evaluation.top1, videos=evaluation.videos, seconds=seconds)
    write_json(directory / _RESULT_FILE, asdict(result))
    for name in ("best", "state"):  # no longer needed
        shutil.rmtree(directory / name)
    return result


def _measure_models(output: Path, top1: Mapping[str, tuple[float, ...]]) -> dict[str, ModelResult]:
    """Count parameters and multiply-adds, and time one clip."""
    models = {name: XViT.from_pretrained(_training_directory(output, name, 0) / "last") for name in top1}
    milliseconds = common.time_per_clip({name: Predictor(model) for name, model in models.items()})
    results = {}
    for name, model in models.items():
        first, median, third = statistics.quantiles(milliseconds[name], n=4)
        results[name] = ModelResult(
            top1=top1[name],
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            macs=count_macs(model, image_size=model.clip_spec.image_size),
            ms_per_clip=median,
            quartiles=(first, third),
        )
    return results
