"""The order of frames in the videos of a data set: a model, the same one with random weights, other models."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvit.config import DataConfig, as_task_dict
from xvit.data.annotations import Sample
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.transforms import normalize
from xvit.experiments.benchmark.peers import build_model
from xvit.experiments.order.compare import (
    Change,
    Model,
    OrderLogits,
    Pairs,
    TaskOrder,
    compare_orders,
    find_twins,
    frame_orders,
    logit_changes,
    order_logits,
)
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError

PEERS = ("TimeSformer", "ViViT", "VideoMAE")  # of `xvit.experiments.benchmark.peers`

_UNTRAINED_CLIPS = 64  # that models with random weights see


@dataclass(frozen=True, kw_only=True)
class OrderResult:
    """The result of `measure_order`.

    Args:
        tasks: what was measured, by task.
        peers: changes of the logits of other video transformers with random weights, by name and kind of order.
        failures: the videos that could not be read.
        warnings: path and warnings of each video that was read, but with damaged or repeated frames.
        clips: number of clips, one per video that was read.
    """

    tasks: dict[str, TaskOrder]
    peers: dict[str, dict[str, Change]]
    failures: list[VideoError]
    warnings: list[tuple[str, tuple[str, ...]]]
    clips: int

    @property
    def untrained_clips(self) -> int:
        """Number of clips, the first ones, that the models with random weights saw."""
        return min(self.clips, _UNTRAINED_CLIPS)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; what holds for a single task without its name."""
        return {
            "clips": self.clips,
            "untrained_clips": self.untrained_clips,
            "tasks": {task: result.to_dict() for task, result in self.tasks.items()},
            "peers": {name: {kind: asdict(change) for kind, change in x.items()} for name, x in self.peers.items()},
            "failures": [{"path": error.path, "reason": error.reason} for error in self.failures],
            "warnings": [{"path": path, "warnings": list(texts)} for path, texts in self.warnings],
        }


def untrained_copy(model: XViT) -> XViT:
    """A model of the same settings on the same device, with random weights: the same ones in each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return XViT(model.config).to(model.device).eval()


def build_peers(model: XViT) -> dict[str, Model]:
    """Video transformers of transformers with random weights, for the clips of `model`. They are of ViT-Tiny's size.

    Raises:
        XViTError: transformers is not installed; an odd number of frames.
    """
    spec, [patch_size, _] = model.clip_spec, model.backbone.patch_embed.patch_size
    if spec.num_frames % 2:
        raise XViTError(f"--peers: clips of {spec.num_frames} frames: ViViT and VideoMAE take an even number")
    settings = {"img_size": spec.image_size, "patch_size": patch_size}
    options: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "frames": spec.num_frames}
    with torch.random.fork_rng(devices=[]):
        return {name: build_model(name, **options, backbone_kwargs=settings).to(model.device).eval() for name in PEERS}


def measure_order(
    model: XViT,
    samples: Sequence[Sample],
    *,
    pairs: Pairs = (),
    peers: Mapping[str, Model] | None = None,
    data: DataConfig | None = None,
    batch_size: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> OrderResult:
    """Show a model one clip of each video, that of `xvit eval` with one view, in other orders of its frames.

    Args:
        model: a trained model, in eval mode.
        samples: the videos; their labels index the model's classes (see `match_labels`). Without labels, or with
            several per video, the logits alone are compared.
        pairs: see `find_twins`.
        peers: other models that see the same clips, see `build_peers`; any that takes them and returns logits.
        data: how the videos are read: `num_workers`, `decode_timeout`.
        batch_size: videos per batch.
        seed: of the shuffled orders.
        on_progress: called with the number of videos done and the total.

    Raises:
        XViTError: none of the videos can be read; fewer than 3 frames per clip; see also `find_twins`.
    """
    data = data or DataConfig()
    twins = find_twins(model.class_names, pairs)
    untrained: dict[str, Model] = {"untrained": untrained_copy(model), **(peers or {})}
    parts: dict[str, list[dict[str, OrderLogits]]] = {name: [] for name in ("trained", *untrained)}
    indices, errors, warnings = list[int](), dict[int, VideoError](), dict[int, tuple[str, ...]]()
    for batch in _read(model, samples, data, batch_size):
        errors |= batch["errors"]
        warnings |= batch["warnings"]
        if rows := batch["indices"].tolist():
            clips = normalize(batch["pixels"][:, 0], model.clip_spec, model.device)  # of the only view
            orders = [frame_orders(clips.shape[1], np.random.default_rng([seed, row])) for row in rows]
            parts["trained"].append(order_logits(model, clips, orders))
            if left := max(_UNTRAINED_CLIPS - len(indices), 0):
                for name, other in untrained.items():
                    parts[name].append(order_logits(other, clips[:left], orders[:left]))
            indices += rows
        if on_progress is not None:
            on_progress(len(indices) + len(errors), len(samples))
    if not indices:
        raise XViTError(f"none of {len(samples)} videos could be read; the first: {errors[min(errors)]}")
    logits = {name: _join(of_model) for name, of_model in parts.items()}
    labels = _labels([samples[index] for index in indices])
    return OrderResult(
        tasks={
            task: compare_orders(values, logits["untrained"][task], labels.get(task), twins[task])
            for task, values in logits["trained"].items()
        },
        peers={name: logit_changes(next(iter(logits[name].values()))) for name in peers or {}},
        failures=[errors[index] for index in sorted(errors)],
        warnings=[(samples[index].path, warnings[index]) for index in sorted(warnings)],
        clips=len(indices),
    )


def _read(model: XViT, samples: Sequence[Sample], data: DataConfig, batch_size: int) -> Iterator[Batch]:
    """One clip of each video, in batches."""
    dataset = VideoDataset(
        samples=[replace(sample, label=None) for sample in samples],
        clip_spec=model.clip_spec,
        decode_timeout=data.decode_timeout,
    )
    with closing(make_loader(dataset, batch_size=batch_size, num_workers=data.num_workers)) as loader:
        yield from loader


def _join(parts: Sequence[dict[str, OrderLogits]]) -> dict[str, OrderLogits]:
    """The logits of all batches."""
    return {
        task: {kind: torch.cat([part[task][kind] for part in parts]) for kind in of_task}
        for task, of_task in parts[0].items()
    }


def _labels(samples: Iterable[Sample]) -> dict[str, Tensor]:
    """The labels (B,) by task; empty without labels, or with several per video."""
    labels = [sample.label for sample in samples]
    if any(label is None or isinstance(label, tuple) for label in labels):
        return {}
    return {task: torch.tensor([as_task_dict(label)[task] for label in labels]) for task in as_task_dict(labels[0])}
