"""The demonstration: one recipe, one made data set, three models at the same price, and a report that compares them.

    videos ─▶ train x 3 ─▶ evaluate x 3 ─▶ predict files ─▶ time ─▶ report.html

Stopped at any point, it goes on: a stage that is done is noted in demo.json and not done again, and a training goes on
from its last whole epoch.
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

from xvit.config import SINGLE_TASK, RunConfig, from_dict, read_yaml, to_dict
from xvit.data.annotations.samples import read_class_folders
from xvit.data.synthetic.motion import CLASSES, write_motion
from xvit.evaluation import Evaluation, evaluate, match_labels, run_metadata
from xvit.experiments.demo.report import write_report
from xvit.inference.predictor import Predictor
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.training.engine import fit
from xvit.training.logger import Progress
from xvit.utils.devices import default_device
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text
from xvit.utils.timing import interleaved, one_thread

NOTES = "demo.json"
CLIPS_PER_CLASS = 340
_TIMING_ROUNDS, _WARM_UP_ROUNDS = 40, 5
_WRONG_SHOWN = 3


@dataclass(frozen=True)
class Variant:
    """One of the models compared: the recipe's, with some settings of its model changed."""

    name: str
    changes: dict[str, Any]


VARIANTS: dict[str, Variant] = {
    "xvit": Variant("XViT: mixing, temporal attention", {"attention": "mixing", "temporal_head": "attention"}),
    "spatial": Variant("spatial-only, temporal attention", {"attention": "spatial", "temporal_head": "attention"}),
    "order_blind": Variant(
        "spatial-only, mean: order-blind",
        {"attention": "spatial", "temporal_head": "mean", "temporal_position": "none"},
    ),
}


@dataclass(frozen=True)
class Listener:
    """What `run_demo` tells while it runs; each does nothing by default.

    Args:
        counted: called with what is counted, how many are done, how many there are.
        training: called with the model's name and what `fit` tells.
        finished: called with a stage's name, its seconds, and whether an earlier run did it.
    """

    counted: Callable[[str, int, int], None] = lambda name, done, total: None
    training: Callable[[str, Progress], None] = lambda name, news: None
    finished: Callable[[str, float, bool], None] = lambda name, seconds, earlier: None


def default_recipe() -> RunConfig:
    """recipes/motion.yaml, as it comes with the package."""
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
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Make the videos, train and compare the three models, write the report.

    Args:
        output: a new or empty folder, or one of a demonstration with the same settings, which then goes on.
        recipe: what the three trainings have in common; its data.root is not used.
        clips_per_class: videos of each class, a fifth of them held out.
        seed: of the videos.
        listener: told how far it is.

    Returns:
        What the report shows: "rows" of the table, "predictions" of files, "seconds" of each stage.

    Raises:
        XViTError: `output` holds other things, or a demonstration with other settings.
    """
    output, listener = Path(output), listener or Listener()
    videos = output / "videos"
    recipe = replace(recipe, data=replace(recipe.data, root=str(videos)))
    settings = {"recipe": to_dict(recipe), "clips_per_class": clips_per_class, "seed": seed}
    stages = _Stages(output, settings, listener)

    def write() -> None:
        def tell(done: int, total: int) -> None:
            listener.counted("writing videos", done, total)

        if not videos.exists():  # they appear when all are written
            write_motion(videos, clips_per_class=clips_per_class, seed=seed, on_progress=tell)

    stages.do("videos", write)
    rows = []
    for key, variant in VARIANTS.items():
        trained = stages.do(f"train {key}", partial(_train, output / key, variant, recipe, listener))
        tested = stages.do(f"evaluate {key}", partial(_evaluate, output / key, recipe, listener))
        rows.append({"key": key, "model": variant.name, **trained, **tested})
    predictions = stages.do("predict files", partial(_predict, output, listener))
    timing = stages.do("time a clip", partial(_time_models, output))
    for row in rows:
        row["milliseconds"] = timing[row["key"]]
    summary = {"settings": settings, "rows": rows, "predictions": predictions}
    stages.do("report", partial(write_report, output, summary | {"seconds": stages.seconds}))
    return summary | {"seconds": stages.seconds, "report": str(output / "report.html")}


class _Stages:
    """The stages that are done, with their results, kept in a file of the output folder."""

    def __init__(self, output: Path, settings: dict[str, Any], listener: Listener) -> None:
        self.notes, self.listener = output / NOTES, listener
        self.done: dict[str, Any] = {}
        self.settings = settings
        if output.exists() and not output.is_dir():
            raise XViTError(f"{output}: a file; choose another folder")
        if output.exists() and any(output.iterdir()):
            self._read()
        output.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage."""
        return {name: stage["seconds"] for name, stage in self.done.items()}

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of a stage: that of an earlier run, or of doing the work now. JSON must be able to hold it."""
        earlier = name in self.done
        if not earlier:
            start = time.perf_counter()
            result = work()
            self.done[name] = {"seconds": round(time.perf_counter() - start, 2), "result": result}
            self._write()
        self.listener.finished(name, self.done[name]["seconds"], earlier)
        return self.done[name]["result"]

    def _read(self) -> None:
        folder = self.notes.parent
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            settings, self.done = notes["settings"], notes["stages"]
        except FileNotFoundError:
            raise XViTError(f"{folder}: not empty, and not a demonstration to go on with; choose another one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise XViTError(f"{self.notes}: damaged ({error}); choose another folder for the demonstration") from None
        if settings != self.settings:
            raise XViTError(f"{folder}: a demonstration with other settings ({NOTES} has them); choose another folder")

    def _write(self) -> None:
        atomic_write_text(self.notes, json.dumps({"settings": self.settings, "stages": self.done}, indent=2) + "\n")


def _train(folder: Path, variant: Variant, recipe: RunConfig, listener: Listener) -> dict[str, Any]:
    config = replace(recipe, model=replace(recipe.model, **variant.changes))
    result = fit(config, folder, resume=True, on_progress=lambda news: listener.training(variant.name, news))
    return {"training_seconds": round(result.seconds, 1), "bad_videos": result.bad_videos}


def _evaluate(folder: Path, recipe: RunConfig, listener: Listener) -> dict[str, Any]:
    """Test the weights of the last epoch: the best one was chosen by these very videos."""
    model = XViT.from_pretrained(folder / "last", device=default_device())
    predictor = Predictor(model)
    data = read_class_folders(recipe.data.root)
    result = evaluate(
        predictor,
        match_labels(data.val, data.classes, predictor.class_names),
        eval_config=recipe.eval,
        num_workers=recipe.data.num_workers,
        on_progress=lambda done, total: listener.counted("evaluating", done, total),
    )
    assert isinstance(result, Evaluation)  # of one label a video
    result.save(folder / "evaluation", of=run_metadata(predictor, recipe.data))
    task = result.tasks[SINGLE_TASK]
    places = [task.class_names.index(name) for name in CLASSES]  # pairs side by side
    confusion = [[task.confusion[row][column] for column in places] for row in places]
    pairs = sum(confusion[row][column] for row in range(len(places)) for column in (row, row ^ 1))
    return {
        "top1": result.top1,
        "top1_of_pairs": pairs / result.videos,
        "videos": result.videos,
        "per_class": {name: task.per_class[name] for name in CLASSES},
        "confusion": confusion,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, image_size=model.clip_spec.image_size),
    }


def _predict(output: Path, listener: Listener) -> list[dict[str, Any]]:
    """Name what happens in the first held-out file of each class, and in some that the evaluation got wrong."""
    predictor = Predictor(output / "xvit" / "last")
    lines = (output / "xvit" / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    tested = [json.loads(line) for line in lines]
    first = {sample["truth"]: sample for sample in reversed(tested)}
    wrong = [sample for sample in tested if sample["prediction"] != sample["truth"]]
    chosen = {sample["path"]: sample["truth"] for sample in [*first.values(), *wrong[:_WRONG_SHOWN]]}
    predictions = []
    for done, (path, truth) in enumerate(chosen.items(), start=1):
        said = predictor(path)
        assert isinstance(said.labels, tuple)  # one task
        assert isinstance(said.scores, tuple)
        predictions.append({"path": path, "truth": truth, "prediction": said.labels[0], "score": said.scores[0]})
        listener.counted("predicting", done, len(chosen))
    return predictions


def _time_models(output: Path) -> dict[str, float]:
    """Milliseconds a clip, one clip at a time on one core: medians over rounds in which each model takes its turn."""
    predictors = {key: Predictor(output / key / "last") for key in VARIANTS}
    clip = next(iter(predictors.values())).clip_spec
    pixels = torch.zeros(1, 1, clip.num_frames, 3, clip.image_size, clip.image_size, dtype=torch.uint8)
    steps = {key: partial(predictor.scores, pixels) for key, predictor in predictors.items()}
    taken = interleaved(steps, rounds=_TIMING_ROUNDS, warm_up=_WARM_UP_ROUNDS)
    return {key: round(1000 * statistics.median(seconds), 3) for key, seconds in taken.items()}
