"""Comparison of an exported model with the original on real clips: logits, predicted classes and speed.

A program for raw frames is compared by its scores, on the frames as they are decoded, at five sizes at least: with the
scores of the model for the same frames, resized and cropped by `xvit.data.transforms`.
"""

import logging
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isnan

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from xvit.config import ClipSpec, DataConfig, as_task_dict
from xvit.data.annotations import Sample, find_videos
from xvit.data.dataset import VideoDataset
from xvit.data.reading import read_test_clips
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.export.runtime import ExportedModel
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.timing import time_interleaved

OnProgress = Callable[[str, int, int], None]  # stage, steps done, steps in total
Comparison = tuple[Tensor, Tensor, str]  # a clip (1, T, C, S, S) in uint8, the program's input for it, its frame size
_TIMED_CLIPS = 10
_FRAME_SIZES = ((64, 48), (320, 240), (640, 360), (360, 640), (1280, 720))  # width, height
_RESIZED_CLIPS = 10  # compared at each size to which they are resized

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """Requirements on an export.

    Args:
        max_difference: largest allowed difference of any logit (of raw frames: of any score); None for no limit.
        min_agreement: smallest allowed fraction of clips with the same top-1 class, in each task.
    """

    max_difference: float | None = None
    min_agreement: float = 0.99

    @classmethod
    def for_precision(cls, precision: str, *, raw_frames: bool = False) -> "ParityLimits":
        """The default limits: fp32 must have the same logits, other precisions the same top-1 classes.

        Scores of raw frames may differ more, because a rounded pixel of a resized frame does.
        """
        return cls(max_difference=(1e-2 if raw_frames else 1e-4) if precision == "fp32" else None)


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """An exported model compared with the original, clip by clip.

    Args:
        num_clips: number of compared clips.
        max_difference: largest difference of a logit; of a program for raw frames, of a score.
        mean_difference: mean difference of a logit or score.
        max_logit: largest magnitude of the original's logits or scores, the scale of the differences.
        agreement: fraction of clips with the same top-1 class; the smallest over the tasks.
        model_ms: median milliseconds per clip of the original, one clip at a time, on its threads.
        exported_ms: the same of the exported model, measured in turns with the original.
        size_bytes: size of the program with its weights.
        frame_sizes: of a program for raw frames: number of compared clips by the size of their frames, such as 640x360,
            or "640x360 (resized)" for clips that were resized to it.
    """

    num_clips: int
    max_difference: float
    mean_difference: float
    max_logit: float
    agreement: float
    model_ms: float
    exported_ms: float
    size_bytes: int
    frame_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def outputs(self) -> str:
        """What was compared: logits, or scores of raw frames."""
        return "scores" if self.frame_sizes else "logits"

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
            reason = f"{item.error.reason}; give a list of the other videos, such as xvit data check --output writes"
            raise VideoError(item.error.path, reason)
        for warning in item.warnings:
            _logger.warning("%s: %s", path, warning)
        assert item.pixels is not None
        clips.append(item.pixels)
        on_progress("reading clips", index + 1, len(paths))
    return clips


def clip_comparisons(clips: Sequence[Tensor], clip_spec: ClipSpec) -> Iterator[Comparison]:
    """The comparisons for a program that takes normalised clips."""
    return ((pixels, normalize(pixels, clip_spec), "") for pixels in clips)


def raw_comparisons(paths: Sequence[str], clip_spec: ClipSpec) -> Iterator[Comparison]:
    """The comparisons for a program that takes raw frames, as they are decoded; each video is read when its turn comes.

    If the videos have fewer than five sizes, some are also compared after they were resized.

    Raises:
        VideoError: a video that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        frames = _read_raw_frames(path, clip_spec)
        height, width = frames.shape[-2:]
        seen.add((width, height))
        yield _compare_frames(frames, clip_spec, f"{width}x{height}")
    others = [size for size in _FRAME_SIZES if size not in seen][: max(len(_FRAME_SIZES) - len(seen), 0)]
    for index, (width, height) in enumerate(others):
        for path in list(paths[index :: len(others)] or paths)[:_RESIZED_CLIPS]:
            frames = F.resize(_read_raw_frames(path, clip_spec), [height, width])
            yield _compare_frames(frames, clip_spec, f"{width}x{height} (resized)")


def _compare_frames(frames: Tensor, clip_spec: ClipSpec, size: str) -> Comparison:
    return eval_views(frames, clip_spec), frames.permute(0, 2, 3, 1)[None], size


def _read_raw_frames(path: str, clip_spec: ClipSpec) -> Tensor:
    """The frames of a clip as they are decoded, (T, C, H, W)."""
    sample = Sample(path=path, label=None, id=path)
    clip = read_test_clips(sample, clip_spec, 1, DataConfig.decode_timeout, shrink=False)
    for warning in clip.warnings:
        _logger.warning("%s: %s", path, warning)
    return as_tensor(clip.frames)


@torch.inference_mode()
def measure_parity(
    model: XViT,
    exported: ExportedModel,
    comparisons: Iterable[Comparison],
    *,
    num_clips: int,
    size: int,
    on_progress: OnProgress,
) -> ParityReport:
    """Compare the logits of both models (of raw frames: the scores), and their speed on some of the clips.

    `num_clips` are expected, for `on_progress`; `size` is that of the program in bytes.
    """
    differences, max_logit, agreements, sizes = [], 0.0, [], Counter[str]()
    seconds: dict[str, list[float]] = {"model": [], "exported": []}
    run_model = partial(_run_model, model, scores=exported.manifest.raw_frames)
    for index, (pixels, program_input, frame_size) in enumerate(comparisons):
        clip = normalize(pixels, model.clip_spec)
        expected, actual = run_model(clip), as_task_dict(exported(program_input))
        for task, outputs in expected.items():
            differences.append((outputs - actual[task]).abs().flatten())
            max_logit = max(max_logit, outputs.abs().max().item())
        agreements.append([bool((expected[task].argmax(-1) == actual[task].argmax(-1)).all()) for task in expected])
        sizes[frame_size] += 1
        if index < _TIMED_CLIPS:
            steps: dict[str, Callable[[], object]]
            steps = {"model": partial(run_model, clip), "exported": partial(exported, program_input)}
            for name, times in time_interleaved(steps, rounds=1, warm_up=int(index == 0)).items():
                seconds[name].extend(times)
        on_progress("comparing", min(index + 1, num_clips), num_clips)
    all_differences = torch.cat(differences)
    return ParityReport(
        num_clips=len(agreements),
        max_difference=all_differences.max().item(),
        mean_difference=all_differences.mean().item(),
        max_logit=max_logit,
        agreement=min(statistics.fmean(column) for column in zip(*agreements, strict=True)),
        model_ms=1e3 * statistics.median(seconds["model"]),
        exported_ms=1e3 * statistics.median(seconds["exported"]),
        size_bytes=size,
        frame_sizes=dict(sizes) if exported.manifest.raw_frames else {},
    )


def _run_model(model: XViT, clip: Tensor, *, scores: bool) -> dict[str, Tensor]:
    outputs = as_task_dict(model(clip.to(model.device)))
    return {task: (model.probabilities(x, task) if scores else x).cpu() for task, x in outputs.items()}


def check_parity(report: ParityReport, limits: ParityLimits) -> None:
    """Raise `XViTError` if the exported model is beyond the limits."""
    if isnan(report.max_difference):
        raise XViTError(f"parity: the exported model produced NaN {report.outputs}; nothing was written")
    if limits.max_difference is not None and report.max_difference > limits.max_difference:
        raise XViTError(
            f"parity: {report.outputs} differ by up to {report.max_difference:.2g} on {report.num_clips} clips "
            f"(the largest is {report.max_logit:.3g}), above --max-difference {limits.max_difference:g}; nothing was "
            "written"
        )
    if report.agreement < limits.min_agreement:
        raise XViTError(
            f"parity: same top-1 class on {100 * report.agreement:.1f} % of {report.num_clips} clips, below "
            f"--min-agreement {limits.min_agreement:g}; nothing was written"
        )
