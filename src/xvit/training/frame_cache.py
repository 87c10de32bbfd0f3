"""Frame vectors for training the head alone: computed once per view of a video, and kept in files.

train-0.safetensors   the frame vectors of all training videos as epoch 1 draws them: clip, crop, flip, colours
train-1 ...           of later epochs, up to `MAX_VIEWS` views; then the epochs use them again in turn
val-0                 one fixed view of each validation video

A file holds a hash of everything that its values depend on: weights, clip spec, augmentation, seed, videos, libraries.
One with another hash is computed anew.

n readable videos, T frames, D channels
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from xvit.config import ClassNames, RunConfig, as_task_dict, to_dict, unwrap_single_task
from xvit.data.annotations import Sample
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.record import Row, record_hash, record_samples, record_versions
from xvit.data.sampler import EpochSampler
from xvit.data.transforms import normalize
from xvit.evaluation import ScoredVideos
from xvit.models.profiling import frames_hash
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import parse_json, publish, write_errors

MAX_VIEWS = 8  # random views of a training video
Split = Literal["train", "val"]
_FORMAT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameView:
    """The frame vectors of one view of each video.

    Args:
        frames: (n, T, D) float32, of the videos that could be read.
        labels: of each task, (n,) class indices, or (n, classes) of 0 and 1 for multi-label samples; a mirrored clip
            may have the label of its mirror image.
        rows: the row of each video, by the index of its sample.
        errors: of the unreadable videos, by the index of the sample.
        warnings: of videos that were read all the same.
    """

    frames: Tensor
    labels: dict[str, Tensor]
    rows: Mapping[int, int]
    errors: Mapping[int, VideoError]
    warnings: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class FrameReader:
    """How videos become frame vectors.

    Args:
        model: the frozen model, on its device.
        config: the recipe.
        class_names: of the data set.
        autocast: makes the context of train.precision.
        on_batch: called with the number of videos done and the total.
    """

    model: XViT
    config: RunConfig
    class_names: ClassNames
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    on_batch: Callable[[int, int], None] = lambda done, total: None

    @cached_property
    def settings(self) -> list[Any]:
        """What the frame vectors of any view depend on, with a hash of the frozen weights."""
        config, clip_spec = self.config, self.model.clip_spec
        if clip_spec.spans_video:  # its stride is for endless videos only, and differs between parts of a data set
            clip_spec = replace(clip_spec, stride=1)
        computation = [config.train.precision, config.eval.batch_size, record_versions(self.model.device)]
        return [_FORMAT, frames_hash(self.model), to_dict(clip_spec), computation, self.class_names]

    def key(self, record: Sequence[Row], split: Split, view: int) -> str:
        """Hash of everything on which the frame vectors of a view depend; `record` is that of the videos."""
        random = [to_dict(self.config.augment), self.config.train.seed, view] if split == "train" else []
        return record_hash([self.settings, random, record])

    def read(self, samples: Sequence[Sample], split: Split, view: int) -> FrameView:
        """Compute the frame vectors of a view of each video."""
        data, total = self.config.data, len(samples)
        dataset = VideoDataset(
            samples=samples,
            clip_spec=self.model.clip_spec,
            augment=self.config.augment if split == "train" else None,
            seed=self.config.train.seed,
            class_names=self.class_names,
            decode_timeout=data.decode_timeout,
        )
        dataset.set_epoch(view)
        batch_size = self.config.eval.batch_size
        batches = []
        with closing(make_loader(dataset, batch_size=batch_size, num_workers=data.num_workers)) as loader:
            for number, batch in enumerate(loader, start=1):
                batches.append(self._embed(batch))
                self.on_batch(min(number * batch_size, total), total)
        return _join(batches)

    @torch.no_grad()
    def _embed(self, batch: Batch) -> Batch:
        """The batch with frame vectors (B, T, D) in place of its pixels."""
        model, pixels = self.model, batch["pixels"]
        if pixels.ndim == 6:
            pixels = pixels.flatten(0, 1)  # (B, 1, T, C, S, S): a single view of each
        model.backbone.eval()  # not the head, which may be in the middle of an epoch
        if len(pixels):
            with self.autocast():
                frames = model.embed_frames(normalize(pixels.contiguous(), model.clip_spec, model.device))
        else:
            T = model.clip_spec.num_frames // model.config.tubelet_size
            frames = torch.empty(0, T, model.backbone.num_features)
        return {**batch, "pixels": frames.float().cpu()}


class FrameCache:
    """The frame vectors of a data set, computed when they are first needed, and kept in files.

    The files are mapped into memory, so that large data sets need no more of it than the system can spare.

    Args:
        folder: of the files; created with the first one.
        train: samples that random views are taken of; those that a run trains on may be a part of them.
        val: samples that the fixed view is taken of; likewise.
    """

    def __init__(self, folder: Path, *, train: Sequence[Sample], val: Sequence[Sample]) -> None:
        self.folder = folder
        self.samples: dict[Split, Sequence[Sample]] = {"train": train, "val": val}
        self._positions = {
            split: {_identity(sample): index for index, sample in enumerate(samples)}
            for split, samples in self.samples.items()
        }
        self._records: dict[Split, list[Row]] = {}  # once: on a network disk, a record takes time
        self._views: dict[tuple[Split, int], tuple[str, FrameView]] = {}

    def view(self, reader: FrameReader, split: Split, number: int) -> FrameView:
        """A view of all videos of a split. Computes and writes it if it is not there, or of something else."""
        samples, path = self.samples[split], self.folder / f"{split}-{number}.safetensors"
        if split not in self._records:
            self._records[split] = record_samples(samples)
        key = reader.key(self._records[split], split, number)
        known_key, known = self._views.get((split, number), ("", None))
        if known is None or known_key != key:
            known = _load(path, key)
            if known is None:
                computed = reader.read(samples, split, number)
                _save(path, key, computed)
                known = _load(path, key) or computed  # mapped
            self._views[split, number] = key, known
        return known

    def has(self, split: Split) -> bool:
        """Whether a view of this split has been read by this process."""
        return (split, 0) in self._views

    def position(self, split: Split, sample: Sample) -> int:
        """The index of a sample in the views of a split."""
        return self._positions[split][_identity(sample)]


class FrameLoader:
    """In place of a `VideoLoader`: batches in the order of `sampler`, with frame vectors (B, T, D) for pixels."""

    def __init__(self, cache: FrameCache, reader: FrameReader, sampler: EpochSampler, *, batch_size: int) -> None:
        self.cache, self.reader, self.sampler, self.batch_size = cache, reader, sampler, batch_size
        self.num_views = min(reader.config.train.epochs, MAX_VIEWS)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        samples, epoch = self.sampler.dataset.samples, self.sampler.dataset.epoch
        indices = list(self.sampler)  # index + N k for the k-th repetition, which takes the k-th view from this epoch's
        numbers = {(epoch + index // len(samples)) % self.num_views for index in indices}
        views = {number: self.cache.view(self.reader, "train", number) for number in numbers}
        for start in range(0, len(indices), self.batch_size):
            chosen = [divmod(index, len(samples)) for index in indices[start : start + self.batch_size]]
            yield self._collate([(views[(epoch + k) % self.num_views], index) for k, index in chosen])

    def _collate(self, items: list[tuple[FrameView, int]]) -> Batch:
        samples = self.sampler.dataset.samples
        places = [(view, self.cache.position("train", samples[index]), index) for view, index in items]
        found = [(view, place, index) for view, place, index in places if place in view.rows]
        any_view = items[0][0]
        if found:
            frames = torch.stack([view.frames[view.rows[place]] for view, place, _ in found])
            labels = {
                task: torch.stack([view.labels[task][view.rows[place]] for view, place, _ in found])
                for task in any_view.labels
            }
        else:
            frames, labels = any_view.frames[:0], {task: values[:0] for task, values in any_view.labels.items()}
        return Batch(
            pixels=frames,
            labels=unwrap_single_task(labels),
            indices=torch.tensor([index for _, _, index in found], dtype=torch.int64),
            times=[],
            warnings={index: view.warnings[place] for view, place, index in places if place in view.warnings},
            errors={index: view.errors[place] for view, place, index in places if place in view.errors},
        )

    def close(self) -> None:
        """As that of a `VideoLoader`; there is nothing to end."""


@torch.no_grad()
def score_frames(model: XViT, cache: FrameCache, reader: FrameReader, samples: Sequence[Sample]) -> ScoredVideos:
    """As `xvit.evaluation.score_videos` with one view per video, from the frame vectors of validation videos.

    Raises:
        XViTError: none of the videos can be read.
    """
    started = time.perf_counter()
    view, positions = cache.view(reader, "val", 0), [cache.position("val", sample) for sample in samples]
    read = [index for index, position in enumerate(positions) if position in view.rows]
    failed = [index for index, position in enumerate(positions) if position in view.errors]
    if not read:
        raise XViTError(f"none of {len(samples)} videos could be read; the first: {view.errors[positions[0]]}")
    frames = view.frames[[view.rows[positions[index]] for index in read]]
    logits = as_task_dict(model.eval().classify_frames(frames.to(model.device)))
    errors = {index: view.errors[positions[index]] for index in failed}
    return ScoredVideos(
        samples=[samples[index] for index in read],
        scores={task: model.probabilities(values).cpu() for task, values in logits.items()},
        class_names=model.class_names,
        failures=[(samples[index].id, error.path, error.reason) for index, error in errors.items()],
        warnings=[
            (sample.id, sample.path, view.warnings[position])
            for sample, position in zip(samples, positions, strict=True)
            if position in view.warnings
        ],
        temporal_views=1,
        spatial_views=1,
        seconds=time.perf_counter() - started,
    )


def _identity(sample: Sample) -> tuple[object, ...]:
    return sample.id, sample.path, sample.start, sample.stop, repr(sample.label)


def _join(batches: Sequence[Batch]) -> FrameView:
    indices = torch.cat([batch["indices"] for batch in batches]).tolist()
    tasks = [as_task_dict(batch["labels"]) for batch in batches]
    return FrameView(
        frames=torch.cat([batch["pixels"] for batch in batches]),
        labels={task: torch.cat([labels[task] for labels in tasks]) for task in tasks[0]},
        rows={index: row for row, index in enumerate(indices)},
        errors={index: error for batch in batches for index, error in batch["errors"].items()},
        warnings={index: texts for batch in batches for index, texts in batch["warnings"].items()},
    )


def _save(path: Path, key: str, view: FrameView) -> None:
    tensors = {"frames": view.frames, "indices": torch.tensor(list(view.rows), dtype=torch.int64)}
    tensors |= {f"labels.{task}": values for task, values in view.labels.items()}
    values = {
        "key": key,
        "errors": {index: [error.path, error.reason] for index, error in view.errors.items()},
        "warnings": {index: list(texts) for index, texts in view.warnings.items()},
    }
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        try:  # not save_file, which lets nobody else read the file, whatever the umask
            partial.write_bytes(save(tensors, metadata={"xvit": json.dumps(values)}))
            publish(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _load(path: Path, key: str) -> FrameView | None:
    """What a file holds; None if there is none, or it is damaged or of something else: it is then written anew."""
    try:
        with safe_open(path, framework="pt") as file:
            values = parse_json(file.metadata()["xvit"])
            if values["key"] != key:
                return None
        tensors = load_file(path)
        return FrameView(
            frames=tensors["frames"],
            labels={name.removeprefix("labels."): t for name, t in tensors.items() if name.startswith("labels.")},
            rows={index: row for row, index in enumerate(tensors["indices"].tolist())},
            errors={int(index): VideoError(path, reason) for index, (path, reason) in values["errors"].items()},
            warnings={int(index): tuple(texts) for index, texts in values["warnings"].items()},
        )
    except Exception:  # three libraries read it, and each fails in its own ways
        return None
