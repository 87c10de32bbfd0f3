"""Extracting features of videos to a file. Rows are written batch by batch, so memory does not grow with their number.

An extraction that is stopped keeps its state beside the output (`xvit.features.partial`) and can be resumed.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xvit.config import to_dict
from xvit.data.annotations import Sample
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.record import record_samples, record_versions
from xvit.data.transforms import normalize
from xvit.features.partial import VALUES, PartialExtraction, open_partial, partial_folder
from xvit.features.storage import FORMAT, LEVELS, Level, check_format, check_names, sidecars, write_features
from xvit.models.profiling import model_hash
from xvit.models.token_merging import patches_after_merging
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError, check_choice, check_range
from xvit.utils.files import publish, write_errors
from xvit.utils.locks import lock_directory


@dataclass(frozen=True, kw_only=True)
class ExtractionResult:
    """The result of `extract_features`.

    Args:
        output: the file.
        shape: of its values.
        failures: the unreadable videos, which have no row.
        warnings: what is wrong with videos that have a row, such as damaged frames: paths and texts.
    """

    output: Path
    shape: tuple[int, ...]
    failures: tuple[VideoError, ...]
    warnings: tuple[tuple[str, tuple[str, ...]], ...]


def extract_features(
    model: XViT,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    level: Level = "clip",
    labels: Sequence[str | None] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    resume: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExtractionResult:
    """Write the features of videos, one view each, to a file. A video that cannot be read gets no row.

    An extraction that was stopped or killed is resumed when the function is called again. The values equal those of an
    uninterrupted run to the last bit (same machine, same number of threads). What they depend on has to be the same:
    model, clip spec, level, batch size, videos (names, labels, order, sizes), library versions and kind of device.

    Args:
        model: on its device; it is put in eval mode.
        paths: the videos.
        output: a new file: .safetensors (a tensor "features"), .npy (with paths and labels in NAME.json beside it) or
            .parquet (columns path, label, features).
        level: clip (one vector per video), frames (one per frame) or tokens (all tokens of each frame).
        labels: class names of the videos; None where they are unknown.
        batch_size: videos in one pass through the model.
        num_workers: loader processes; 0 decodes in this process.
        resume: continue an unfinished extraction; otherwise start again.
        on_progress: called with the number of videos done and the total.

    Raises:
        WriteError: the disk is full, and the like; what was extracted so far is kept.
        XViTError: `check_output` refuses the output; another process writes it; there are no videos, or none can be
            read; the format cannot hold the names; there is an unfinished extraction of other videos or with other
            settings.
    """
    output = check_output(output)
    check_choice("level", level, LEVELS)
    check_range("batch_size", batch_size, 1)
    names = [os.fspath(path) for path in paths]
    classes = [None] * len(names) if labels is None else list(labels)
    if len(classes) != len(names):
        raise XViTError(f"{len(classes)} labels for {len(names)} videos: expected one label per video")
    samples = [Sample(path=name, label=None, id=name) for name in names]
    dataset = VideoDataset(samples=samples, clip_spec=model.clip_spec)
    shape, metadata = row_shape(model, level), describe_model(model, level)
    check_names(output, (len(names), *shape), metadata | {"paths": names, "labels": classes})
    run = metadata | _describe_run(model, samples, classes, batch_size)
    with (
        lock_directory(output, "xvit features"),
        write_errors(output),
        open_partial(output, run, 4 * math.prod(shape), resume=resume) as partial,
    ):
        for done in _extract_remaining(model, dataset, partial, level, batch_size, num_workers):
            if on_progress is not None:
                on_progress(done, len(names))
        read = [index for index in range(len(names)) if index not in partial.failed]
        metadata |= {"paths": [names[index] for index in read], "labels": [classes[index] for index in read]}
        if read:
            _write_output(output, (len(read), *shape), metadata)
        shutil.rmtree(partial_folder(output))
    return _result(output, (len(read), *shape), names, partial)


def _result(output: Path, shape: tuple[int, ...], names: list[str], partial: PartialExtraction) -> ExtractionResult:
    failures = tuple(VideoError(names[index], reason) for index, reason in partial.failed.items())
    warnings = tuple((names[index], tuple(texts)) for index, texts in partial.warnings.items())
    if not shape[0]:
        raise XViTError(f"none of {len(names)} videos could be read; the first: {failures[0]}")
    return ExtractionResult(output=output, shape=shape, failures=failures, warnings=warnings)


def check_output(output: str | Path) -> Path:
    """Path of a new feature file. Raises `XViTError` if its format is unknown, it exists, or a library is missing."""
    output = Path(output)
    check_format(output)
    # A stopped extraction may have written the sidecars already.
    for path in (output, *([] if partial_folder(output).exists() else sidecars(output))):
        if path.exists():
            raise XViTError(f"{path}: exists; choose another output, or remove it")
    return output


def describe_model(model: XViT, level: Level) -> dict[str, Any]:
    """What features are made of, as plain values."""
    clip_spec = to_dict(model.clip_spec)
    return {"format": FORMAT, "level": level, "model_hash": model_hash(model.eval()), "clip_spec": clip_spec}


def _describe_run(
    model: XViT, samples: Sequence[Sample], classes: Sequence[str | None], batch_size: int
) -> dict[str, Any]:
    """The videos with the names of their classes, and what the last bits of the values depend on."""
    rows = zip(classes, record_samples(samples), strict=True)
    return {
        "batch_size": batch_size,
        "versions": record_versions(model.device),
        "video_rows": [[name, label, *rest] for label, (name, _, *rest) in rows],
    }


def _extract_remaining(
    model: XViT, dataset: VideoDataset, partial: PartialExtraction, level: Level, batch_size: int, num_workers: int
) -> Iterator[int]:
    """Append the features of the videos that are not done. Yields the number done, at first and after each batch."""
    first, total = partial.done, len(dataset.samples)
    yield first
    if first == total:
        return
    dataset.samples = dataset.samples[first:]
    with closing(make_loader(dataset, batch_size=batch_size, num_workers=num_workers)) as loader:
        for batch in loader:
            rows = batch_features(model, batch, level).tobytes() if len(batch["indices"]) else b""
            failed = {first + index: error.reason for index, error in batch["errors"].items()}
            warnings = {first + index: texts for index, texts in batch["warnings"].items()}
            partial.append(rows, done=min(partial.done + batch_size, total), failed=failed, warnings=warnings)
            yield partial.done


@torch.inference_mode()
def batch_features(model: XViT, batch: Batch, level: Level) -> np.ndarray:
    """The features of a batch of one view per video: (B, *row_shape) float32."""
    pixels = batch["pixels"].flatten(0, 1).contiguous()  # (B, 1, T, C, S, S) -> (B, T, C, S, S)
    features = model.forward_features(normalize(pixels, model.clip_spec, model.device))
    values = {"clip": features.clip_embedding, "frames": features.frames, "tokens": features.tokens}[level]
    assert values.shape == (len(pixels), *row_shape(model, level)), values.shape
    array: np.ndarray = values.float().cpu().numpy().astype("<f4", copy=False)
    return array


def _write_output(output: Path, shape: tuple[int, ...], metadata: dict[str, Any]) -> None:
    """Write the output into the partial folder, then move it to its place, sidecars first."""
    folder = partial_folder(output)
    written = folder / output.name
    write_features(written, folder / VALUES, shape, metadata)
    if output.exists():
        raise XViTError(f"{output}: was created by another program meanwhile; remove it and run the same again")
    for source, target in zip([*sidecars(written), written], [*sidecars(output), output], strict=True):
        publish(source, target)


def row_shape(model: XViT, level: Level) -> tuple[int, ...]:
    """Shape of the features of one video: (D,), (T, D) or (T, P, D)."""
    backbone, size = model.backbone, model.clip_spec.image_size
    T = model.clip_spec.num_frames // model.config.tubelet_size
    patches = math.prod(backbone.patch_embed.dynamic_feat_size((size, size)))
    tokens = patches_after_merging(patches, model.config.tome_r, len(backbone.blocks) - 1) + backbone.num_prefix_tokens
    return {"clip": (), "frames": (T,), "tokens": (T, tokens)}[level] + (backbone.num_features,)
