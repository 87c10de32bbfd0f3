"""The trainings of the ablation, several at a time, each a result that is kept: stopped at any point, it goes on.

DIR/settings.json           what all results share
DIR/videos/                 the built-in data set
DIR/<model>/seed_0/         a training: result.json when it is done, last/ its weights
DIR/ablation.json .md .png  the tables
"""

import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xvit.config import RunConfig, from_dict, to_dict
from xvit.data.annotations.formats import load_splits
from xvit.data.synthetic.motion import write_motion
from xvit.evaluation import evaluate, match_labels
from xvit.experiments.ablation.grid import MODELS, PAPER, TABLES
from xvit.inference.predictor import Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training.engine import fit
from xvit.utils.errors import XViTError, check_choice, check_range
from xvit.utils.files import atomic_write_text
from xvit.utils.parallel import check_stop, run_all
from xvit.utils.timing import interleaved, one_thread

CLIPS_PER_CLASS = 240
SEEDS = 3
_SETTINGS, _RESULT = "settings.json", "result.json"
_ROUNDS, _WARM_UP = 40, 5  # of the timing


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training.

    Args:
        top1: share of the held-out videos named rightly, by the weights of the last epoch (the best ones were chosen by
            these very videos).
        videos: held-out videos.
        seconds: of the training.

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
class Measured:
    """A model of the grid: accuracy over the seeds, and price.

    Args:
        top1: of each seed.
        parameters: number of them.
        macs: multiply-adds of a clip.
        milliseconds: of a clip, on one core: the median.
        quartiles: the first and third of these times.
    """

    top1: tuple[float, ...]
    parameters: int
    macs: int
    milliseconds: float
    quartiles: tuple[float, float]

    @property
    def mean(self) -> float:
        """Mean top-1 over the seeds."""
        return statistics.mean(self.top1)

    @property
    def spread(self) -> float | None:
        """Standard deviation of top-1 over the seeds; None for a single one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None


@dataclass(frozen=True)
class _Job:
    folder: Path
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
) -> dict[str, Measured]:
    """Train and measure the models of some tables.

    Args:
        output: a new or empty folder, or one of an ablation with the same recipe and videos, which then goes on.
        recipe: what all trainings have in common; its data.root and train.seed are not used.
        tables: keys of `TABLES`.
        seeds: trainings of each model.
        jobs: trainings at a time, of one thread each.
        clips_per_class: videos of each class of the data set, a fifth of them held out.
        on_progress: called with what is counted, how many are done, how many there are.

    Returns:
        Each model of those tables, by its key in `MODELS`.

    Raises:
        XViTError: no such table, a number out of its range, a folder of other things or settings, a damaged result.
    """
    for name in tables:
        check_choice("tables", name, TABLES)
    check_range("seeds", seeds, 1)
    check_range("jobs", jobs, 1)
    check_range("clips_per_class", clips_per_class, 3)  # of which one is held out
    output = Path(output)
    tell = on_progress or (lambda name, done, total: None)
    videos = output / "videos"
    # One validation, after the last epoch; the loader in the training's own process, which has a core for itself
    data = replace(recipe.data, root=str(videos), num_workers=0)
    recipe = replace(recipe, data=data, train=replace(recipe.train, eval_every=recipe.train.epochs))
    _settle(output, recipe, clips_per_class)
    if not videos.exists():  # they appear when all are written
        write_motion(videos, clips_per_class=clips_per_class, seed=0, on_progress=partial(tell, "writing videos"))

    wanted = [name for name in MODELS if any(row.model == name for table in tables for row in TABLES[table].rows)]
    planned = {
        (name, seed): _Job(output / _folder_name(name) / f"seed_{seed}", _config(recipe, name, seed))
        for seed in range(seeds)  # all models of a seed first: stopped early, the tables are complete
        for name in wanted
    }
    trained = {key: _kept(job) for key, job in planned.items()}  # before hours are spent on the others
    missing = [key for key, result in trained.items() if result is None]
    advance = partial(tell, "training")
    new = run_all(_train, [planned[key] for key in missing], num_workers=jobs, on_progress=advance)
    trained |= dict(zip(missing, new, strict=True))
    top1 = {key: result.top1 for key, result in trained.items() if result is not None}
    times = _time(output, wanted, partial(tell, "timing"))
    return {
        name: Measured(
            top1=tuple(top1[name, seed] for seed in range(seeds)),
            parameters=times[name][0],
            macs=times[name][1],
            milliseconds=statistics.median(times[name][2]),
            quartiles=_quartiles(times[name][2]),
        )
        for name in wanted
    }


def _quartiles(values: list[float]) -> tuple[float, float]:
    first, _, third = statistics.quantiles(values, n=4)
    return first, third


def _settle(output: Path, recipe: RunConfig, clips_per_class: int) -> None:
    """Begin an ablation in this folder, or see that it holds one with these settings."""
    path = output / _SETTINGS
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            # as a recipe: one of an older version lacks settings that have come since
            before = (_anywhere(from_dict(RunConfig, known["recipe"], path)), known["clips_per_class"])
        except (ValueError, TypeError, KeyError) as error:
            raise XViTError(f"{path}: damaged ({error}); choose another folder") from None
        if before != (_anywhere(recipe), clips_per_class):
            raise XViTError(f"{output}: an ablation with other settings ({_SETTINGS} has them); choose another folder")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise XViTError(f"{output}: not empty, and not an ablation to go on with; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    _write_json(path, {"recipe": to_dict(recipe), "clips_per_class": clips_per_class})


def _anywhere(recipe: RunConfig) -> RunConfig:
    """The recipe without the place of the videos: the folder may be moved, or named in another way."""
    return replace(recipe, data=replace(recipe.data, root=""))


def _config(recipe: RunConfig, name: str, seed: int) -> RunConfig:
    model = replace(recipe.model, **PAPER | MODELS[name])
    return replace(recipe, model=model, train=replace(recipe.train, seed=seed))


def _folder_name(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", model.replace("%", "percent")).strip("_")


def _kept(job: _Job) -> Trained | None:
    """The result of a training that an earlier run finished."""
    kept = job.folder / _RESULT
    if not kept.is_file():
        return None
    try:
        return Trained(**json.loads(kept.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise XViTError(f"{kept}: damaged ({error}): delete {job.folder} to train it again") from None


@one_thread()
def _train(job: _Job) -> Trained:
    began = time.perf_counter()
    fit(job.config, job.folder, resume=True, on_progress=lambda news: check_stop())
    predictor, data = Predictor(job.folder / "last", device="cpu"), load_splits(job.config.data)
    samples = match_labels(data.val, data.class_names, predictor.class_names)
    result = evaluate(predictor, samples, eval_config=job.config.eval)
    done = Trained(top1=result.metrics["top1"], videos=result.videos, seconds=round(time.perf_counter() - began, 1))
    _write_json(job.folder / _RESULT, asdict(done))
    for used in ("best", "state"):
        shutil.rmtree(job.folder / used)
    return done


def _time(
    output: Path, models: Sequence[str], tell: Callable[[int, int], None]
) -> dict[str, tuple[int, int, list[float]]]:
    """Parameters, multiply-adds, and milliseconds of one clip in each of some rounds in which all models take turns."""
    read = {name: XViT.from_pretrained(output / _folder_name(name) / "seed_0" / "last") for name in models}
    tell(0, len(models))
    clip = next(iter(read.values())).clip_spec
    pixels = torch.zeros(1, 1, clip.num_frames, 3, clip.image_size, clip.image_size, dtype=torch.uint8)
    steps = {name: partial(Predictor(model).scores, pixels) for name, model in read.items()}
    seconds = interleaved(steps, rounds=_ROUNDS, warm_up=_WARM_UP)
    tell(len(models), len(models))
    return {
        name: (
            sum(parameter.numel() for parameter in model.parameters()),
            count_macs(model, image_size=clip.image_size),
            [1000 * second for second in seconds[name]],
        )
        for name, model in read.items()
    }


def _write_json(path: Path, value: Any) -> None:
    atomic_write_text(path, json.dumps(value, indent=2) + "\n")
