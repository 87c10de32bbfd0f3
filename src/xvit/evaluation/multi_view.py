"""What a model says of each of many videos, shared out among the processes."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvit.config import ClassNames, DataConfig, EvalConfig, as_task_dict, unwrap_single_task
from xvit.data.annotations.samples import Sample, remap_label
from xvit.data.dataset import VideoDataset, make_loader
from xvit.inference.predictor import Predictor
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError, did_you_mean
from xvit.utils.files import atomic_write_text


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredVideos:
    """Scores of videos.

    Args:
        samples: those that could be read, in the order in which they were given.
        scores: of each task, (samples, classes) in [0, 1]; the only task is named None.
        class_names: the model's class names.
        failures: id, path and reason of each that could not be read.
        temporal_views: clips along each video.
        spatial_views: crops of each clip.
        seconds: wall time.
    """

    samples: list[Sample]
    scores: dict[str, Tensor]
    class_names: ClassNames
    failures: list[tuple[str, str, str]]
    temporal_views: int
    spatial_views: int
    seconds: float

    @property
    def expected(self) -> int:
        """How many videos were given."""
        return len(self.samples) + len(self.failures)

    def __str__(self) -> str:
        views = f"{self.temporal_views}x{self.spatial_views} views"
        failed = f"; {len(self.failures)} could not be read" if self.failures else ""
        return f"{len(self.samples)} videos scored, {views}{failed}, {self.seconds:.1f} s; they have no labels"

    def to_dict(self) -> dict[str, Any]:
        """All but the scores, as plain values for JSON."""
        names = ("expected", "failures", "temporal_views", "spatial_views", "seconds")
        return {"videos": len(self.samples)} | {name: getattr(self, name) for name in names}

    def save(self, directory: str | Path, *, of: Mapping[str, Any]) -> None:
        """Write evaluation.json and predictions.jsonl (a line a video) of videos without labels.

        Args:
            directory: made if it is not there.
            of: what was scored, by `run_metadata`; put before the results in evaluation.json.
        """
        names = as_task_dict(self.class_names)
        best = {task: values.max(dim=1) for task, values in self.scores.items()}  # values and indices, (samples,)
        rows = (
            {
                "id": sample.id,
                "path": sample.path,
                "prediction": unwrap_single_task(
                    {task: names[task][int(found.indices[row])] for task, found in best.items()}
                ),
                "score": unwrap_single_task({task: float(found.values[row]) for task, found in best.items()}),
            }
            for row, sample in enumerate(self.samples)
        )
        write_numbers(Path(directory), {"of": dict(of)} | self.to_dict(), rows)


def score(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    eval_config: EvalConfig,
    num_workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoredVideos:
    """Score videos, with labels or without. Several processes each read a part, and all return the whole.

    Args:
        predictor: the model.
        samples: the videos.
        eval_config: views of each video, videos at a time.
        workers: loader processes; 0 decodes in this one.
        decode_timeout: seconds after which a video that is still being read counts as failed; 0 for no limit.
        on_progress: called with the number of videos done and of all videos; with several processes, as many as this
            one has done, times theirs.

    Raises:
        XViTError: not one video can be read.
    """
    started = time.perf_counter()
    mine = range(distributed.rank(), len(samples), distributed.world_size())  # none twice, none left out
    places: list[int] = []
    parts: list[dict[str, Tensor]] = []
    errors: dict[int, VideoError] = {}
    if mine:
        dataset = VideoDataset(
            samples=[replace(samples[place], label=None) for place in mine],
            spec=predictor.clip_spec,
            temporal_views=eval_config.temporal_views,
            spatial_views=eval_config.spatial_views,
            decode_timeout=decode_timeout,
        )
        for batch in make_loader(dataset, batch_size=eval_config.batch_size, num_workers=num_workers):
            errors |= {mine[index]: error for index, error in batch["errors"].items()}
            if len(batch["indices"]):
                places += [mine[index] for index in batch["indices"].tolist()]
                scored = as_task_dict(predictor.scores(batch["pixels"]))
                parts.append({task: part.cpu() for task, part in scored.items()})
            if on_progress is not None:
                done = (len(places) + len(errors)) * distributed.world_size()
                on_progress(min(done, len(samples)), len(samples))
    gathered = distributed.all_gather((places, parts, errors))
    places = [place for its_places, _, _ in gathered for place in its_places]
    errors = {place: error for _, _, its_errors in gathered for place, error in its_errors.items()}
    failures = [(samples[place].id, errors[place].path, errors[place].reason) for place in sorted(errors)]
    if not places:
        raise XViTError(f"none of {len(samples)} videos could be read; the first: {errors[min(errors)]}")
    rows = [part for _, its_parts, _ in gathered for part in its_parts]
    order = torch.tensor(places).argsort()
    return ScoredVideos(
        samples=[samples[place] for place in sorted(places)],
        scores={task: torch.cat([row[task] for row in rows])[order] for task in rows[0]},
        class_names=predictor.class_names,
        failures=failures,
        temporal_views=eval_config.temporal_views,
        spatial_views=eval_config.spatial_views,
        seconds=time.perf_counter() - started,
    )


def match_labels(samples: Sequence[Sample], classes: ClassNames, labels: ClassNames) -> list[Sample]:
    """Samples labelled by the classes of their data set, labelled by the classes of a model, by name.

    Args:
        samples: the videos.
        classes: the data set's class names, which the samples' labels index.
        class_names: the model's.

    Raises:
        XViTError: other tasks than the model's, a class that the model does not have.
    """
    if all(sample.label is None for sample in samples):
        return list(samples)
    theirs, ours = as_task_dict(classes), as_task_dict(labels)
    if theirs.keys() != ours.keys():
        known, found = (", ".join(map(str, filter(None, tasks))) or "one without a name" for tasks in (ours, theirs))
        raise XViTError(f"a model of the tasks {known} on videos with labels of {found}")
    places = {task: {name: index for index, name in enumerate(names)} for task, names in ours.items()}
    for task, names in theirs.items():
        for name in names:
            if name not in places[task]:
                hint = did_you_mean(name, ours[task])
                raise XViTError(f'class "{name}" is not one of the {len(ours[task])} that the model knows.{hint}')
    numbers = {task: [places[task][name] for name in names] for task, names in theirs.items()}
    return [replace(sample, label=remap_label(sample.label, numbers)) for sample in samples]


def write_numbers(directory: Path, values: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> None:
    """Write predictions.jsonl, a line a video, and evaluation.json, each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(sample) + "\n" for sample in samples)
    atomic_write_text(directory / "predictions.jsonl", rows)
    atomic_write_text(directory / "evaluation.json", json.dumps(values, indent=2) + "\n")
