"""The demo: train three models of equal cost with one recipe on synthetic videos, and compare them in a report.

    videos ─▶ train x 3 ─▶ evaluate x 3 ─▶ predict files ─▶ measure time ─▶ report.html

A stopped demo can be resumed: finished stages are recorded in demo.json and not repeated, and an unfinished training
continues from its last saved state.
"""

import importlib.resources
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xvit.config import SINGLE_TASK, RunConfig, from_dict, model_config, read_yaml, to_dict
from xvit.data.annotations import load_splits
from xvit.data.synthetic.motion import CLASSES, write_motion_dataset
from xvit.evaluation import Evaluation, evaluate, match_labels, run_metadata
from xvit.experiments.demo.report import read_jsonl, write_report
from xvit.inference.predictor import Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training import Progress, fit
from xvit.utils.devices import default_device
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import atomic_write_text, check_new_directory
from xvit.utils.timing import one_thread, time_interleaved

STATE_FILE = "demo.json"
CLIPS_PER_CLASS = 340
_TIMING_ROUNDS, _WARM_UP_ROUNDS = 40, 5
_WRONG_PREDICTIONS = 3  # shown in the report


@dataclass(frozen=True)
class Variant:
    """One of the compared models: the recipe's model with some options changed."""

    name: str
    options: dict[str, str]


VARIANTS: dict[str, Variant] = {
    "xvit": Variant("XViT: mixing, temporal attention", {"attention": "mixing", "temporal_head": "attention"}),
    "spatial": Variant("spatial-only, temporal attention", {"attention": "spatial", "temporal_head": "attention"}),
    "order_blind": Variant(
        "spatial-only, temporal mean: order-blind",
        {"attention": "spatial", "temporal_head": "mean", "temporal_position": "none"},
    ),
}


@dataclass(frozen=True)
class DemoCallbacks:
    """Functions that `run_demo` calls to report progress; the defaults do nothing.

    Args:
        on_count: called with the name of the current step, the number of items done and their total.
        on_training: called with the model's name and the training's progress.
        on_stage_end: called with a stage's name, its seconds, and whether it was done by an earlier run.
    """

    on_count: Callable[[str, int, int], None] = lambda name, done, total: None
    on_training: Callable[[str, Progress], None] = lambda name, progress: None
    on_stage_end: Callable[[str, float, bool], None] = lambda name, seconds, earlier: None


def default_recipe() -> RunConfig:
    """The recipe of the demo and the ablation study: recipes/motion.yaml, which is installed with the package."""
    file = importlib.resources.files("xvit") / "recipes" / "motion.yaml"
    with importlib.resources.as_file(file) as path:
        return from_dict(RunConfig, read_yaml(path), "recipes/motion.yaml")


@one_thread()
def run_demo(
    output: str | Path,
    *,
    recipe: RunConfig,
    clips_per_class: int = CLIPS_PER_CLASS,
    seed: int = 0,
    callbacks: DemoCallbacks | None = None,
) -> dict[str, Any]:
    """Write the videos, train and compare the three models, and write the report.

    Args:
        output: a new or empty directory, or the directory of a demo with the same settings, which is resumed.
        recipe: the settings that the three trainings share; its data.root is not used.
        clips_per_class: videos per class; a fifth of them is held out.
        seed: seed of the videos.
        callbacks: called as the demo progresses.

    Returns:
        The contents of the report: "rows" of the table, "predictions" for files, "seconds" of each stage, the "report"
        file, and the "settings".

    Raises:
        XViTError: `output` holds something else, or a demo with other settings, or a damaged state file.
    """
    output, callbacks = Path(output), callbacks or DemoCallbacks()
    videos = output / "videos"
    recipe = replace(recipe, data=replace(recipe.data, root=str(videos)))
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seed": seed}
    stages = _Stages(output, settings, callbacks)
    stages.run("videos", partial(_write_videos, videos, clips_per_class, seed, callbacks))
    rows = []
    for key, variant in VARIANTS.items():
        training = stages.run(f"train {key}", partial(_train, output / key, variant, recipe, callbacks))
        evaluation = stages.run(f"evaluate {key}", partial(_evaluate, output / key, recipe, callbacks))
        rows.append({"key": key, "model": variant.name, **training, **evaluation})
    predictions = stages.run("predict files", partial(_predict, output, callbacks))
    milliseconds = stages.run("measure time", partial(_measure_time, output))
    for row in rows:
        row["milliseconds"] = milliseconds[row["key"]]
    summary = {"settings": settings, "rows": rows, "predictions": predictions}
    stages.run("report", partial(write_report, output, summary | {"seconds": stages.seconds}))
    return summary | {"seconds": stages.seconds, "report": str(output / "report.html")}


class _Stages:
    """The finished stages and their results, saved in a JSON file of the output directory."""

    def __init__(self, output: Path, settings: dict[str, Any], callbacks: DemoCallbacks) -> None:
        self.path, self.settings, self.callbacks = output / STATE_FILE, settings, callbacks
        self.finished: dict[str, Any] = {}
        if self.path.is_file():
            self._read()
        else:
            check_new_directory(output, f"it has no {STATE_FILE} of a demo to resume; choose another directory")
            output.mkdir(parents=True, exist_ok=True)
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

    def _read(self) -> None:
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.finished = state["settings"], state["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise XViTError(f"{self.path}: damaged ({one_line(error)}); choose another directory") from None
        if settings != self.settings:
            raise XViTError(
                f"{self.path.parent}: holds a demo with other settings (see {STATE_FILE}); choose another directory"
            )

    def _write(self) -> None:
        atomic_write_text(self.path, json.dumps({"settings": self.settings, "stages": self.finished}, indent=2) + "\n")


def _write_videos(videos: Path, clips_per_class: int, seed: int, callbacks: DemoCallbacks) -> None:
    if not videos.exists():  # the directory appears once all videos are written
        on_progress = partial(callbacks.on_count, "writing videos")
        write_motion_dataset(videos, clips_per_class=clips_per_class, seed=seed, on_progress=on_progress)


def _train(directory: Path, variant: Variant, recipe: RunConfig, callbacks: DemoCallbacks) -> dict[str, Any]:
    config = replace(recipe, model=model_config(recipe.model, **variant.options))
    result = fit(config, directory, resume=True, on_progress=partial(callbacks.on_training, variant.name))
    return {"training_seconds": round(result.seconds, 1), "bad_videos": result.bad_videos}


def _evaluate(directory: Path, recipe: RunConfig, callbacks: DemoCallbacks) -> dict[str, Any]:
    """Evaluate the weights of the last epoch. The best weights are not used: the test videos selected them."""
    model = XViT.from_pretrained(directory / "last", device=default_device())
    predictor = Predictor(model)
    data = load_splits(recipe.data)
    result = evaluate(
        predictor,
        match_labels(data.val, data.class_names, predictor.class_names),
        eval_config=recipe.eval,
        num_workers=recipe.data.num_workers,
        on_progress=partial(callbacks.on_count, "evaluating"),
    )
    assert isinstance(result, Evaluation)  # single-label
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
        prediction = predictor(path)
        assert isinstance(prediction.labels, tuple)  # a single task
        assert isinstance(prediction.scores, tuple)
        label, score = prediction.labels[0], prediction.scores[0]
        predictions.append({"path": path, "ground_truth": truth, "prediction": label, "score": score})
        callbacks.on_count("predicting", done, len(truths))
    return predictions


def _measure_time(output: Path) -> dict[str, float]:
    """Milliseconds per clip on one core: medians over rounds in which the models take turns."""
    predictors = {key: Predictor(output / key / "last") for key in VARIANTS}
    clip_spec = next(iter(predictors.values())).clip_spec
    size = clip_spec.image_size
    pixels = torch.zeros(1, 1, clip_spec.num_frames, 3, size, size, dtype=torch.uint8)
    steps = {key: partial(predictor.predict_probabilities, pixels) for key, predictor in predictors.items()}
    seconds = time_interleaved(steps, rounds=_TIMING_ROUNDS, warm_up=_WARM_UP_ROUNDS)
    return {key: round(1000 * statistics.median(values), 3) for key, values in seconds.items()}
