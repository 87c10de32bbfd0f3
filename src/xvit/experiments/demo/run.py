"""The demo: predict with the bundled model, then train two models of equal cost on synthetic videos and compare them.

    first predictions ─▶ videos ─▶ train x 2 ─▶ evaluate x 2 ─▶ predict files ─▶ measure time ─▶ report.html

A stopped demo can be resumed: finished stages are recorded in demo.json and not repeated, and an unfinished training
continues from its last saved state.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from xvit.config import SINGLE_TASK, RunConfig, describe_change, model_config, to_dict
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.data.synthetic.motion import CLASSES
from xvit.evaluation import run_metadata
from xvit.experiments import common
from xvit.experiments.demo.report import FIRST_PICTURE, draw_predictions, read_jsonl, write_report
from xvit.inference.predictor import Prediction, Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training import Progress, fit
from xvit.training.rows import METRICS, read_rows
from xvit.utils.checkpoint_path import BUNDLED
from xvit.utils.devices import default_device
from xvit.utils.errors import XViTError
from xvit.utils.files import write_json
from xvit.utils.timing import one_thread

CLIPS_PER_CLASS = 340
_WRONG_PREDICTIONS = 3  # shown in the report


@dataclass(frozen=True)
class Variant:
    """One of the compared models: the recipe's model with some options changed."""

    name: str
    options: dict[str, str]


VARIANTS: dict[str, Variant] = {
    "xvit": Variant("XViT", {"attention": "mixing"}),
    "spatial": Variant("spatial-only", {"attention": "spatial"}),
}


@dataclass(frozen=True)
class DemoCallbacks:
    """Functions that `run_demo` calls to report progress; the defaults do nothing.

    Args:
        on_first_predictions: called with the predictions of the bundled model, as `run_demo` returns them, and the
            picture of them.
        on_count: called with the name of the current step, the number of items done and their total.
        on_training: called with the model's name and the training's progress.
        on_stage_end: called with a stage's name, its seconds, and whether it was done by an earlier run.
    """

    on_first_predictions: Callable[[list[dict[str, Any]], str], None] = lambda predictions, picture: None
    on_count: common.CountCallback = lambda name, done, total: None
    on_training: Callable[[str, Progress], None] = lambda name, progress: None
    on_stage_end: Callable[[str, float, bool], None] = lambda name, seconds, earlier: None


@one_thread()
def run_demo(
    output: str | Path,
    *,
    recipe: RunConfig,
    clips_per_class: int = CLIPS_PER_CLASS,
    seed: int = 0,
    callbacks: DemoCallbacks | None = None,
) -> dict[str, Any]:
    """Predict some videos with the bundled model, train and compare two models, and write the report.

    Args:
        output: a new or empty directory, or the directory of a demo with the same settings, which is resumed.
        recipe: the settings that both trainings share; its data.root is not used.
        clips_per_class: videos per class; a fifth of them is held out.
        seed: seed of the videos.
        callbacks: called as the demo progresses.

    Returns:
        The contents of the report: "first_predictions" of the bundled model, "rows" of the table, "predictions" of the
        trained XViT for files, "seconds" of each stage, the "report" file, and the "settings".

    Raises:
        XViTError: `output` holds something else, or a demo with other settings or videos, or a damaged state file.
    """
    output, callbacks = Path(output), callbacks or DemoCallbacks()
    videos = output / "videos"
    recipe = replace(recipe, data=replace(recipe.data, root=str(videos)))
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seed": seed}
    stages = _Stages(output, settings, callbacks)
    first_predictions = stages.run("first predictions", partial(_predict_first, output, seed))
    callbacks.on_first_predictions(first_predictions, str(output / FIRST_PICTURE))
    stages.run("videos", partial(common.write_videos, videos, clips_per_class, seed, callbacks.on_count))
    common.check_videos(videos, recipe.data)
    rows = []
    for key, variant in VARIANTS.items():
        training = stages.run(f"train {key}", partial(_train, output / key, variant, recipe, callbacks))
        evaluation = stages.run(f"evaluate {key}", partial(_evaluate, output / key, recipe, callbacks))
        rows.append({"key": key, "model": variant.name, **training, **evaluation})
    predictions = stages.run("predict files", partial(_predict, output, callbacks))
    milliseconds = stages.run("measure time", partial(_measure_time, output))
    for row in rows:
        row["milliseconds"] = milliseconds[row["key"]]
    results = {"first_predictions": first_predictions, "rows": rows, "predictions": predictions}
    summary = {"settings": settings, **results}
    stages.run("report", partial(write_report, output, summary | {"seconds": stages.seconds}))
    return summary | {"seconds": stages.seconds, "report": str(output / "report.html")}


def read_curves(output: Path) -> dict[str, list[dict[str, Any]]]:
    """The metric rows so far of each model whose training has begun, by its name."""
    rows = {variant.name: read_rows(output / key / METRICS) for key, variant in VARIANTS.items()}
    return {name: values for name, values in rows.items() if values}


class _Stages:
    """The finished stages and their results, saved in a JSON file of the output directory."""

    def __init__(self, output: Path, settings: dict[str, Any], callbacks: DemoCallbacks) -> None:
        self.path, self.settings, self.callbacks = output / "demo.json", settings, callbacks

        def parse(saved: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            return describe_change(saved["settings"], settings), dict(saved["stages"])

        change, self.finished = common.open_directory(self.path, "a demo", parse) or ("", {})
        if change:
            raise XViTError(f"{output}: holds a demo with other settings: {change}; choose another --output")
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each stage."""
        return {name: stage["seconds"] for name, stage in self.finished.items()}

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """The result of a stage, saved by an earlier run or computed now. It must be representable in JSON."""
        earlier = name in self.finished
        if not earlier:
            start = time.perf_counter()
            result = function()
            self.finished[name] = {"seconds": round(time.perf_counter() - start, 2), "result": result}
            self._write()
        stage = self.finished[name]
        self.callbacks.on_stage_end(name, stage["seconds"], earlier)
        return stage["result"]

    def _write(self) -> None:
        write_json(self.path, {"settings": self.settings, "stages": self.finished})


def _predict_first(output: Path, seed: int) -> list[dict[str, Any]]:
    """Classify one new video of each class with the bundled model, and draw some of them."""
    videos = output / "first_videos"
    if not videos.exists():  # it appears once all videos are written
        write_motion_dataset(videos, clips_per_class=1, val_fraction=1, seed=seed)  # the first held-out ones
    predictor = Predictor(BUNDLED / "motion")
    truths = {str(videos / "val" / name / "0000.mp4"): name for name in CLASSES}
    predictions = [_to_dict(predictor(path), truth) for path, truth in truths.items()]
    draw_predictions(predictions, predictor.clip_spec, output / FIRST_PICTURE)
    return predictions


def _train(directory: Path, variant: Variant, recipe: RunConfig, callbacks: DemoCallbacks) -> dict[str, Any]:
    config = replace(recipe, model=model_config(recipe.model, **variant.options))
    result = fit(config, directory, resume=directory.exists(), on_progress=partial(callbacks.on_training, variant.name))
    return {"training_seconds": round(result.seconds, 1), "bad_videos": result.bad_videos}


def _evaluate(directory: Path, recipe: RunConfig, callbacks: DemoCallbacks) -> dict[str, Any]:
    model = XViT.from_pretrained(directory / "last", device=default_device())
    predictor = Predictor(model)
    result = common.evaluate_held_out(predictor, recipe, partial(callbacks.on_count, "evaluating"))
    result.save(directory / "evaluation", metadata=run_metadata(predictor, recipe.data))
    task = result.tasks[SINGLE_TASK]
    order = [task.class_names.index(name) for name in CLASSES]  # the classes of a pair are adjacent
    confusion = [[task.confusion[row][column] for column in order] for row in order]
    correct_pairs = sum(confusion[row][column] for row in range(len(order)) for column in (row, row ^ 1))
    return {
        "top1": result.top1,
        "top1_of_pairs": correct_pairs / result.videos,
        "videos": result.videos,
        "per_class": {name: task.per_class[name] for name in CLASSES},
        "confusion": confusion,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, image_size=model.clip_spec.image_size),
    }


def _predict(output: Path, callbacks: DemoCallbacks) -> list[dict[str, Any]]:
    """Classify the first held-out file of each class, and some files that the evaluation got wrong."""
    predictor = Predictor(output / "xvit" / "last")
    samples = read_jsonl(output / "xvit" / "evaluation" / "predictions.jsonl")
    first = {sample["ground_truth"]: sample for sample in reversed(samples)}
    wrong = [sample for sample in samples if sample["prediction"] != sample["ground_truth"]]
    truths = {sample["path"]: sample["ground_truth"] for sample in [*first.values(), *wrong[:_WRONG_PREDICTIONS]]}
    predictions = []
    for done, (path, truth) in enumerate(truths.items(), start=1):
        predictions.append(_to_dict(predictor(path), truth))
        callbacks.on_count("predicting", done, len(truths))
    return predictions


def _to_dict(prediction: Prediction, truth: str) -> dict[str, Any]:
    assert isinstance(prediction.labels, tuple)  # a single task
    assert isinstance(prediction.scores, tuple)
    label, score = prediction.labels[0], prediction.scores[0]
    return {"path": prediction.path, "ground_truth": truth, "prediction": label, "score": score}


def _measure_time(output: Path) -> dict[str, float]:
    milliseconds = common.time_per_clip({key: Predictor(output / key / "last") for key in VARIANTS})
    return {key: round(statistics.median(values), 3) for key, values in milliseconds.items()}
