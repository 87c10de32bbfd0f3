"""Train and measure the models of the ablation study. Every finished training is saved, so a stopped run can resume.

DIR/settings.json            what all trainings share
DIR/clips/                   the clips and images, as NumPy arrays
DIR/image_model_8/           the image model with 8 layers from which the video models start
DIR/trainings/<model>_0.002_seed_0.json   which validation and test clips one trained model classifies correctly
DIR/ablation.json .md .png   the results

A training first fits the head alone, to the frozen image model: the gradients of an untrained head would destroy what
the image model has learnt (Kumar et al., ICLR 2022). The learning rate is that of the whole model.
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
from xvit.experiments.ablation.grid import DEPTH, MODEL_OPTIONS, PAPER_TABLES, TABLES, Options, build_config
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
LEARNING_RATES, MIN_RATE, MAX_RATE = (2e-3, 4e-3), 2.5e-4, 3.2e-2
_LAYER_DECAY, _WARMUP = 0.75, 0.3
_HEAD_SHARE, _HEAD_LR = 3, 2e-3  # the head alone is fitted on a third of the clips
_IMAGE_LR, _IMAGE_WARMUP, _IMAGE_EPOCHS, _IMAGE_SEED = 1.5e-3, 0.1, 4, 0


def split_sizes(clips: int) -> dict[str, int]:
    """The number of clips or images of each split, for this number of training clips."""
    return {"train": clips, "val": clips // 24, "test": clips * 25 // 192, "images": clips * 5 // 2}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of one training.

    Args:
        validation: whether each validation clip is classified correctly, one character 0 or 1 per clip.
        correct: the same for each test clip.
        seconds: processor time of the training and the test.

    Raises:
        XViTError: not such characters, or a negative time.
    """

    validation: str
    correct: str
    seconds: float

    def __post_init__(self) -> None:
        for name in ("validation", "correct"):
            if not re.fullmatch("[01]+", getattr(self, name)):
                raise XViTError(f"{name}: expected characters 0 and 1")
        check_range("seconds", self.seconds, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelResult:
    """Accuracy and cost of one model.

    Args:
        correct: (seeds, test clips) bool.
        validation: top-1 on the validation clips of the first seed at each learning rate; the highest decides.
        parameters: number of parameters.
        macs: multiply-adds per clip.
        seconds: processor time of all its trainings.
    """

    correct: np.ndarray
    validation: Mapping[float, float]
    parameters: int
    macs: int
    seconds: float

    @property
    def top1(self) -> list[float]:
        """Top-1 for each seed, in [0, 1]."""
        return [float(value) for value in self.correct.mean(axis=1)]

    @property
    def lr(self) -> float:
        """The learning rate that was chosen."""
        return best_rate(self.validation)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        validation = {str(lr): round(top1, 4) for lr, top1 in self.validation.items()}
        top1 = [round(value, 6) for value in self.top1]
        cost = {"parameters": self.parameters, "macs": self.macs, "seconds": self.seconds}
        return {"top1": top1, "lr": self.lr, "validation": validation, **cost}


def best_rate(top1: Mapping[float, float]) -> float:
    """The learning rate with the highest accuracy; of equal ones the lowest rate."""
    return max(sorted(top1), key=lambda lr: top1[lr])


def further_rate(top1: Mapping[float, float]) -> float | None:
    """The learning rate to try next: beyond the best one if none was tried there, so that it lies between others."""
    best = best_rate(top1)
    if best == max(top1) and best < MAX_RATE:
        return 2 * best
    if best == min(top1) and best > MIN_RATE:
        return best / 2
    return None


@one_thread()
def run_ablation(
    output: str | Path,
    *,
    tables: Sequence[str] = PAPER_TABLES,
    seeds: int = 3,
    jobs: int = 1,
    clips: int = CLIPS,
    epochs: int = 1,
    on_progress: common.CountCallback = lambda step, done, total: None,
) -> dict[str, ModelResult]:
    """Train and measure the models of some tables.

    All models start from an image model, which learns single frames. Each model is trained with several learning rates;
    the best one on the validation clips counts, and is used for the other seeds. Last weights are tested, once.

    Args:
        output: a new or empty directory, or the directory of an ablation with these clips and epochs, which is resumed.
        tables: keys of `TABLES`.
        seeds: trainings per model.
        jobs: trainings that run at the same time, with one thread each.
        clips: number of training clips. The other splits are in proportion.
        epochs: how often a training sees each clip.
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
    check_range("epochs", epochs, 1)
    output = Path(output)
    _open_output(output, {"clips": clips, "epochs": epochs, "learning_rates": list(LEARNING_RATES)})
    write_clips(output / "clips", split_sizes(clips), partial(on_progress, "drawing clips"))
    used = {row.model for table in tables for row in TABLES[table].rows}
    models = [model for model in MODEL_OPTIONS if model in used]  # each once, in this order
    depths = sorted({_depth(model) for model in models}, reverse=True)
    study = _Study(output, epochs, jobs, on_progress)
    study.run("image model", _train_image_model, [_ImageJob(output, depth) for depth in depths])
    first = study.first_seed(models)
    others = study.other_seeds({model: best_rate(_validation_top1(first[model])) for model in models}, seeds)
    return {model: _summarize(model, first[model], others[model]) for model in models}


def _open_output(output: Path, settings: dict[str, Any]) -> None:
    """Create the output directory, or check that it holds an ablation with these settings."""
    path = output / "settings.json"
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
    """One training of a video model."""

    output: Path
    model: str
    lr: float
    seed: int
    epochs: int

    @property
    def path(self) -> Path:
        return self.output / "trainings" / f"{_slug(self.model)}_{self.lr:g}_seed_{self.seed}.json"


@dataclass(frozen=True)
class _Study:
    """Runs the trainings of a study that have no saved result."""

    output: Path
    epochs: int
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

    def first_seed(self, models: Sequence[str]) -> dict[str, dict[float, TrainingResult]]:
        """The results of each model with the first seed, at each learning rate that was tried."""
        results: dict[str, dict[float, TrainingResult]] = {model: {} for model in models}
        missing = [(model, lr) for model in models for lr in LEARNING_RATES]
        while missing:
            tried = [(model, lr) for model in models for lr in results[model]]
            jobs = {(model, lr): self._job(model, lr, seed=0) for model, lr in [*tried, *missing]}
            for (model, lr), result in self._results("choosing learning rates", jobs).items():
                results[model][lr] = result
            further = {model: further_rate(_validation_top1(results[model])) for model in models}
            missing = [(model, lr) for model, lr in further.items() if lr is not None]
        return results

    def other_seeds(self, rates: Mapping[str, float], seeds: int) -> dict[str, list[TrainingResult]]:
        """The results of each model with the seeds after the first one."""
        jobs = {
            (model, seed): self._job(model, lr, seed=seed)
            for seed in range(1, seeds)  # all models of one seed first: a stopped run then has complete tables
            for model, lr in rates.items()
        }
        results = self._results("training", jobs)
        return {model: [results[model, seed] for seed in range(1, seeds)] for model in rates}

    def _job(self, model: str, lr: float, *, seed: int) -> _VideoJob:
        return _VideoJob(self.output, model, lr, seed, self.epochs)

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


def _validation_top1(results: Mapping[float, TrainingResult]) -> dict[float, float]:
    return {lr: result.validation.count("1") / len(result.validation) for lr, result in results.items()}


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
    train_model(model, images, lr=_IMAGE_LR, epochs=_IMAGE_EPOCHS, warmup=_IMAGE_WARMUP, seed=_IMAGE_SEED)
    model.save_pretrained(job.path)


@one_thread()
def _train_video_model(job: _VideoJob) -> None:
    start = time.process_time()
    image_model = XViT.from_pretrained(job.output / f"image_model_{_depth(job.model)}")
    model = build_model(MODEL_OPTIONS[job.model], len(MOTIONS), seed=job.seed)
    load_tensors(model, image_model.backbone.state_dict(), {}, source="the image model")
    splits = {split: Clips.load(job.output / "clips", split, ("label",)) for split in ("train", "val", "test")}
    fine_tune(model, splits["train"], lr=job.lr, epochs=job.epochs, seed=job.seed)
    validation, correct = (_find_correct(model, splits[split]) for split in ("val", "test"))
    seconds = round(time.process_time() - start, 1)
    job.path.parent.mkdir(exist_ok=True)
    write_json(job.path, asdict(TrainingResult(validation=validation, correct=correct, seconds=seconds)))


def fine_tune(model: XViT, clips: Clips, *, lr: float, epochs: int, seed: int) -> None:
    """Train a model that starts from the image model: its head on a third of the clips, then all of it on all."""
    model.requires_grad_(False)
    for head in (model.temporal_head, model.classifier):
        head.requires_grad_(True)
    some = clips.first(len(clips.pixels) // _HEAD_SHARE)
    train_model(model, some, lr=_HEAD_LR, epochs=1, warmup=_WARMUP, seed=seed)
    model.requires_grad_(True)
    train_model(model, clips, lr=lr, epochs=epochs, layer_decay=_LAYER_DECAY, warmup=_WARMUP, seed=seed)


def _find_correct(model: XViT, clips: Clips) -> str:
    """One character per clip: 1 if it is classified correctly, else 0."""
    correct = predict(model, clips).argmax(dim=-1) == clips.labels["label"]
    return "".join(str(int(bit)) for bit in correct)


def _summarize(
    model: str, first_seed: Mapping[float, TrainingResult], other_seeds: Sequence[TrainingResult]
) -> ModelResult:
    xvit = build_model(MODEL_OPTIONS[model], len(MOTIONS), seed=0)
    validation = _validation_top1(first_seed)
    results = [first_seed[best_rate(validation)], *other_seeds]
    return ModelResult(
        correct=np.array([[bit == "1" for bit in result.correct] for result in results]),
        validation=validation,
        parameters=sum(parameter.numel() for parameter in xvit.parameters()),
        macs=count_macs(xvit),
        seconds=round(sum(result.seconds for result in [*first_seed.values(), *other_seeds]), 1),
    )
