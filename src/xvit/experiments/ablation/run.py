"""Train and measure the models of the ablation study. Every finished training is saved, so a stopped run can resume.

DIR/settings.json            what all trainings share
DIR/clips/                   the clips and images, as NumPy arrays
DIR/image_model_8/           the image model with 8 layers from which the video models start
DIR/pilots/<model>_0.001.json       accuracy on the validation clips after a short training at this learning rate
DIR/trainings/<model>_seed_0.json   which test clips one trained model classifies correctly
DIR/ablation.json .md .png   the results
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xvit.config import describe_change
from xvit.data.record import compare_versions, record_versions
from xvit.experiments import common
from xvit.experiments.ablation.clips import IMAGE_TASKS, MOTIONS, write_clips
from xvit.experiments.ablation.grid import DEPTH, MODEL_OPTIONS, TABLES, Options, build_config
from xvit.experiments.ablation.train import Clips, predict, train_model
from xvit.models.pretrained import load_tensors
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_choice, check_range
from xvit.utils.files import write_json
from xvit.utils.parallel import parallel_map
from xvit.utils.timing import one_thread

CLIPS, MIN_CLIPS = 18_432, 384
# Of which each model gets the best one. If that is the lowest or the highest, further ones are tried.
LEARNING_RATES, MIN_RATE, MAX_RATE = (1e-3, 2e-3, 4e-3), 2.5e-4, 1.6e-2
_LAYER_DECAY = 0.75
_IMAGE_LR, _IMAGE_EPOCHS, _IMAGE_SEED = 1.5e-3, 4, 0
_PILOT_SHARE, _PILOT_SEED = 3, 1000  # a third of the clips; not the seed of a training that counts


def split_sizes(clips: int) -> dict[str, int]:
    """The number of clips or images of each split, for this number of training clips."""
    return {"train": clips, "val": clips // 24, "test": clips * 25 // 192, "images": clips * 5 // 2}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training.

    Args:
        correct: whether each test clip is classified correctly, one character 0 or 1 per clip.
        seconds: processor time of the training and the test.

    Raises:
        XViTError: not such characters, or a negative time.
    """

    correct: str
    seconds: float

    def __post_init__(self) -> None:
        if not re.fullmatch("[01]+", self.correct):
            raise XViTError("correct: expected characters 0 and 1")
        check_range("seconds", self.seconds, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """Accuracy and cost of one model.

    Args:
        correct: (seeds, test clips) bool.
        pilots: top-1 on the validation clips at each learning rate; the highest decides.
        parameters: number of parameters.
        macs: multiply-adds per clip.
        seconds: processor time of all its trainings, without the pilots.
    """

    correct: np.ndarray
    pilots: Mapping[float, float]
    parameters: int
    macs: int
    seconds: float

    @property
    def top1(self) -> list[float]:
        """Top-1 for each seed, in [0, 1]."""
        return [float(value) for value in self.correct.mean(axis=1)]

    @property
    def lr(self) -> float:
        """The learning rate that the pilots chose."""
        return best_rate(self.pilots)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        pilots = {str(lr): round(top1, 4) for lr, top1 in self.pilots.items()}
        top1 = [round(value, 6) for value in self.top1]
        cost = {"parameters": self.parameters, "macs": self.macs, "seconds": self.seconds}
        return {"top1": top1, "lr": self.lr, "pilots": pilots, **cost}


def best_rate(pilots: Mapping[float, float]) -> float:
    """The learning rate with the highest accuracy; of equal ones the lowest rate."""
    return max(sorted(pilots), key=lambda lr: pilots[lr])


def further_rate(pilots: Mapping[float, float]) -> float | None:
    """The learning rate to try next: beyond the best one if none was tried there, so that it lies between others."""
    best = best_rate(pilots)
    if best == max(pilots) and best < MAX_RATE:
        return 2 * best
    if best == min(pilots) and best > MIN_RATE:
        return best / 2
    return None


@one_thread()
def run_ablation(
    output: str | Path,
    *,
    tables: Sequence[str] = tuple(TABLES),
    seeds: int = 3,
    jobs: int = 1,
    clips: int = CLIPS,
    on_progress: common.CountCallback = lambda step, done, total: None,
) -> dict[str, ModelResult]:
    """Train and measure the models of some tables.

    All models start from an image model, which learns single frames. For each model, the best of three learning rates
    or more on validation clips is taken; then one training per seed is tested, once, with its last weights.

    Args:
        output: a new or empty directory, or the directory of an ablation of as many clips, which is resumed.
        tables: keys of `TABLES`.
        seeds: trainings per model.
        jobs: trainings that run at the same time, with one thread each.
        clips: number of training clips; a training sees each of them once. The other splits are in proportion.
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
    check_range("clips", clips, MIN_CLIPS)
    output = Path(output)
    _open_output(output, clips)
    write_clips(output / "clips", split_sizes(clips), partial(on_progress, "drawing clips"))
    used = {row.model for table in tables for row in TABLES[table].rows}
    models = [model for model in MODEL_OPTIONS if model in used]  # each once, in this order
    depths = sorted({_depth(model) for model in models}, reverse=True)
    study = _Study(output, jobs, on_progress)
    study.run("image model", _train_image_model, [_ImageJob(output, depth) for depth in depths])
    pilots = study.pilots(models)
    results = study.trainings({model: best_rate(pilots[model]) for model in models}, seeds)
    return {model: _summarize(model, pilots[model], results[model]) for model in models}


def _open_output(output: Path, clips: int) -> None:
    """Create the output directory, or check that it holds an ablation with these settings."""
    path = output / "settings.json"
    settings = {"clips": clips, "learning_rates": list(LEARNING_RATES)}
    versions = record_versions(torch.device("cpu"))

    def compare(saved: dict[str, Any]) -> tuple[str, str]:
        return describe_change(saved["settings"], settings), compare_versions(saved["versions"], versions)

    changes = common.open_directory(path, "an ablation", compare)
    if changes is None:
        write_json(path, {"settings": settings, "versions": versions})
    elif changes[0]:
        raise XViTError(f"{output}: holds an ablation with other settings: {changes[0]}; choose another --output")
    elif changes[1]:
        common.warn_of_versions(output, changes[1])


def _depth(model: str) -> int:
    return int(MODEL_OPTIONS[model].get("depth", DEPTH))


def _slug(model: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", model.replace("%", "percent")).strip("_")


@dataclass(frozen=True)
class _ImageJob:
    output: Path
    depth: int

    @property
    def path(self) -> Path:
        return self.output / f"image_model_{self.depth}"


@dataclass(frozen=True)
class _VideoJob:
    """One training of a video model; `split` is what it is tested on: val in a pilot, test otherwise."""

    output: Path
    model: str
    lr: float
    seed: int
    split: str

    @property
    def path(self) -> Path:
        if self.split == "val":
            return self.output / "pilots" / f"{_slug(self.model)}_{self.lr:g}.json"
        return self.output / "trainings" / f"{_slug(self.model)}_seed_{self.seed}.json"


@dataclass(frozen=True)
class _Study:
    """Runs the trainings of a study that have no saved result."""

    output: Path
    jobs: int
    on_progress: common.CountCallback

    def run(self, name: str, function: Callable[[Any], None], jobs: Sequence[_ImageJob | _VideoJob]) -> None:
        missing = [job for job in jobs if not job.path.exists()]
        done = len(jobs) - len(missing)
        self.on_progress(name, done, len(jobs))
        parallel_map(
            function,
            missing,
            num_workers=min(self.jobs, len(missing)),
            on_progress=lambda finished, _: self.on_progress(name, done + finished, len(jobs)),
        )

    def pilots(self, models: Sequence[str]) -> dict[str, dict[float, float]]:
        """Top-1 on the validation clips of each model at each learning rate that was tried."""
        jobs: dict[tuple[str, float], _VideoJob] = {}
        missing = [(model, lr) for model in models for lr in LEARNING_RATES]
        while missing:
            jobs |= {(model, lr): _VideoJob(self.output, model, lr, _PILOT_SEED, "val") for model, lr in missing}
            results = self._results("choosing learning rates", jobs)
            pilots = {model: {lr: _top1(results[name, lr]) for name, lr in jobs if name == model} for model in models}
            missing = [(model, lr) for model in models if (lr := further_rate(pilots[model])) is not None]
        return pilots

    def trainings(self, rates: Mapping[str, float], seeds: int) -> dict[str, list[TrainingResult]]:
        """The results of each model for each seed."""
        jobs = {
            (model, seed): _VideoJob(self.output, model, lr, seed, "test")
            for seed in range(seeds)  # all models of one seed first: a stopped run then has complete tables
            for model, lr in rates.items()
        }
        results = self._results("training", jobs)
        return {model: [results[model, seed] for seed in range(seeds)] for model in rates}

    def _results(self, name: str, jobs: Mapping[Any, _VideoJob]) -> dict[Any, TrainingResult]:
        def load(job: _VideoJob) -> TrainingResult:
            return common.load_state(job.path, _parse_result, "delete it to train this model again")

        for job in jobs.values():  # so that a damaged result is reported before the first training starts
            if job.path.exists():
                load(job)
        self.run(name, _train_video_model, list(jobs.values()))
        return {key: load(job) for key, job in jobs.items()}


def _parse_result(values: Mapping[str, Any]) -> TrainingResult:
    return TrainingResult(**values)


def _top1(result: TrainingResult) -> float:
    return result.correct.count("1") / len(result.correct)


def build_model(options: Options, num_classes: int | dict[str, int], *, seed: int) -> XViT:
    """A new model with the options of a row, whose clip spec normalises the study's clips."""
    torch.manual_seed(seed)
    model = XViT(build_config(options, num_classes))
    model.clip_spec = replace(model.clip_spec, mean=(0.3, 0.3, 0.3), std=(0.25, 0.25, 0.25))
    return model


@one_thread()
def _train_image_model(job: _ImageJob) -> None:
    options: Options = {"attention": "spatial", "temporal_head": "mean", "num_frames": 1, "depth": job.depth}
    model = build_model(options, IMAGE_TASKS, seed=_IMAGE_SEED)
    images = Clips.load(job.output / "clips", "images", tuple(IMAGE_TASKS))
    train_model(model, images, lr=_IMAGE_LR, epochs=_IMAGE_EPOCHS, layer_decay=1.0, seed=_IMAGE_SEED)
    model.save_pretrained(job.path)


@one_thread()
def _train_video_model(job: _VideoJob) -> None:
    start = time.process_time()
    image_model = XViT.from_pretrained(job.output / f"image_model_{_depth(job.model)}")
    model = build_model(MODEL_OPTIONS[job.model], len(MOTIONS), seed=job.seed)
    load_tensors(model, image_model.backbone.state_dict(), {}, source="the image model")
    train, test = (Clips.load(job.output / "clips", split, ("label",)) for split in ("train", job.split))
    if job.split == "val":
        train = train.first(len(train.pixels) // _PILOT_SHARE)
    train_model(model, train, lr=job.lr, epochs=1, layer_decay=_LAYER_DECAY, seed=job.seed)
    correct = predict(model, test).argmax(dim=-1) == test.labels["label"]
    bits = "".join(str(int(bit)) for bit in correct)
    job.path.parent.mkdir(exist_ok=True)
    write_json(job.path, asdict(TrainingResult(correct=bits, seconds=round(time.process_time() - start, 1))))


def _summarize(model: str, pilots: Mapping[float, float], results: Sequence[TrainingResult]) -> ModelResult:
    xvit = build_model(MODEL_OPTIONS[model], len(MOTIONS), seed=0)
    return ModelResult(
        correct=np.array([[bit == "1" for bit in result.correct] for result in results]),
        pilots=pilots,
        parameters=sum(parameter.numel() for parameter in xvit.parameters()),
        macs=count_macs(xvit),
        seconds=round(sum(result.seconds for result in results), 1),
    )
