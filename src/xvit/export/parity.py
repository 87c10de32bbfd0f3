"""Comparison of an exported model with the original on real clips: logits, predicted classes and speed."""

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan

import torch
from torch import Tensor

from xvit.config import ClipSpec, as_task_dict
from xvit.data.annotations import Sample, find_videos
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.export.runtime import ExportedModel
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range
from xvit.utils.timing import time_interleaved

OnProgress = Callable[[str, int, int], None]  # stage, steps done, steps in total
_TIMED_CLIPS = 10

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """Requirements on an export.

    Args:
        max_difference: largest allowed difference of any logit; None for no limit.
        min_agreement: smallest allowed fraction of clips with the same top-1 class, in each task.
    """

    max_difference: float | None = None
    min_agreement: float = 0.99

    @classmethod
    def for_precision(cls, precision: str) -> "ParityLimits":
        """The default limits: fp32 must have the same logits, other precisions the same top-1 classes."""
        return cls(max_difference=1e-4 if precision == "fp32" else None)


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """An exported model compared with the original, clip by clip.

    Args:
        num_clips: number of compared clips.
        max_difference: largest difference of a logit.
        mean_difference: mean difference of a logit.
        max_logit: largest magnitude of the original's logits, the scale of the differences.
        agreement: fraction of clips with the same top-1 class; the smallest over the tasks.
        model_ms: median milliseconds per clip of the original, one clip at a time, on its threads.
        exported_ms: the same of the exported model, measured in turns with the original.
        size_bytes: size of the program with its weights.
    """

    num_clips: int
    max_difference: float
    mean_difference: float
    max_logit: float
    agreement: float
    model_ms: float
    exported_ms: float
    size_bytes: int

    @property
    def speedup(self) -> float:
        """How many times faster the exported model is."""
        return self.model_ms / self.exported_ms


def choose_videos(videos: Sequence[str], num_clips: int, *, calibrate: bool) -> tuple[list[str], list[str]]:
    """Choose videos that are evenly spaced in the list of those given.

    Args:
        videos: files, folders and lists.
        num_clips: number of videos to compare; fewer if there are fewer videos.
        calibrate: also choose as many others for the calibration.

    Returns:
        The videos for the comparison, and those for the calibration.

    Raises:
        XViTError: too few videos.
    """
    check_range("num_clips", num_clips, 1)
    paths = find_videos(videos)
    if len(paths) < 1 + calibrate:
        raise XViTError(f"{len(paths)} video: expected at least 2, one to calibrate on and another one to compare")
    total = min(num_clips * (1 + calibrate), len(paths))
    chosen = [paths[len(paths) * index // total] for index in range(total)]
    return chosen[:: 1 + calibrate], chosen[1::2] if calibrate else []


def read_clips(clip_spec: ClipSpec, paths: Sequence[str], on_progress: OnProgress) -> list[Tensor]:
    """Read the centre views of videos, (1, T, C, H, W) in uint8.

    What is wrong with a video that is still used is logged. `on_progress` is called with the stage, the steps done and
    their total.

    Raises:
        VideoError: a video that cannot be read.
    """
    if not paths:
        return []
    dataset = VideoDataset(samples=[Sample(path=path, label=None, id=path) for path in paths], clip_spec=clip_spec)
    clips = []
    for index, path in enumerate(paths):
        item = dataset[index]
        if item.error is not None:
            raise item.error
        for warning in item.warnings:
            _logger.warning("%s: %s", path, warning)
        assert item.pixels is not None
        clips.append(item.pixels)
        on_progress("reading clips", index + 1, len(paths))
    return clips


@torch.inference_mode()
def measure_parity(
    model: XViT, exported: ExportedModel, clips: list[Tensor], *, size: int, on_progress: OnProgress
) -> ParityReport:
    """Compare the logits of both models on clips (1, T, C, H, W) in uint8, and their speed on some of the clips.

    `size` is that of the program in bytes.
    """
    differences, max_logit, agreements = [], 0.0, []
    for index, pixels in enumerate(clips, start=1):
        clip = normalize(pixels, model.clip_spec)
        expected, actual = _model_logits(model, clip), as_task_dict(exported(clip))
        for task, logits in expected.items():
            differences.append((logits - actual[task]).abs().flatten())
            max_logit = max(max_logit, logits.abs().max().item())
        agreements.append([bool((expected[task].argmax(-1) == actual[task].argmax(-1)).all()) for task in expected])
        on_progress("comparing", index, len(clips))
    seconds: dict[str, list[float]] = {"model": [], "exported": []}
    for index, pixels in enumerate(clips[:_TIMED_CLIPS]):
        clip = normalize(pixels, model.clip_spec)
        steps: dict[str, Callable[[], object]]
        steps = {"model": partial(_model_logits, model, clip), "exported": partial(exported, clip)}
        for name, times in time_interleaved(steps, rounds=1, warm_up=int(index == 0)).items():
            seconds[name].extend(times)
    all_differences = torch.cat(differences)
    return ParityReport(
        num_clips=len(clips),
        max_difference=all_differences.max().item(),
        mean_difference=all_differences.mean().item(),
        max_logit=max_logit,
        agreement=min(statistics.fmean(column) for column in zip(*agreements, strict=True)),
        model_ms=1e3 * statistics.median(seconds["model"]),
        exported_ms=1e3 * statistics.median(seconds["exported"]),
        size_bytes=size,
    )


def _model_logits(model: XViT, clip: Tensor) -> dict[str, Tensor]:
    return {task: logits.cpu() for task, logits in as_task_dict(model(clip.to(model.device))).items()}


def check_parity(report: ParityReport, limits: ParityLimits) -> None:
    """Raise `XViTError` if the exported model is beyond the limits."""
    if isnan(report.max_difference):
        raise XViTError("parity: the exported model produced NaN logits; nothing was written")
    if limits.max_difference is not None and report.max_difference > limits.max_difference:
        raise XViTError(
            f"parity: logits differ by up to {report.max_difference:.2g} on {report.num_clips} clips (the largest is "
            f"{report.max_logit:.3g}), above --max-difference {limits.max_difference:g}; nothing was written"
        )
    if report.agreement < limits.min_agreement:
        raise XViTError(
            f"parity: same top-1 class on {100 * report.agreement:.1f} % of {report.num_clips} clips, below "
            f"--min-agreement {limits.min_agreement:g}; nothing was written"
        )
