"""How far the answers of an exported model are from those of the model it was made of, on real clips."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xvit.config import ClipSpec, as_task_dict
from xvit.data.annotations.samples import Sample, find_videos
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.export.runtime import ExportedModel
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range
from xvit.utils.timing import interleaved

_TIMED = 10  # clips that both models are timed on


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an export must reach.

    Args:
        max_difference: largest difference of any logit; None for any.
        min_agreement: smallest share of the clips with the same best class, in each task.
    """

    max_difference: float | None = None
    min_agreement: float = 0.99

    @classmethod
    def of(cls, precision: str) -> "Limits":
        """Those of a precision: float32 must give the same logits, the others the same answers."""
        return cls(max_difference=1e-4 if precision == "fp32" else None)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """An exported model beside the model, clip by clip.

    Args:
        clips: how many were compared.
        max_difference: the largest difference of a logit.
        mean_difference: the mean difference of a logit.
        largest_logit: the largest magnitude of the model's logits, to judge differences by.
        agreement: share of the clips with the same best class, the smallest of the tasks.
        model_ms: median milliseconds a clip of the model, one clip at a time, on its threads.
        exported_ms: of the exported model, its turns between the model's.
        bytes: size of the program with its weights.
    """

    clips: int
    max_difference: float
    mean_difference: float
    largest_logit: float
    agreement: float
    model_ms: float
    exported_ms: float
    bytes: int

    @property
    def speedup(self) -> float:
        """How many times faster the exported model is."""
        return self.model_ms / self.exported_ms


@dataclass(frozen=True)
class Clips:
    """Clips (1, T, C, H, W) in uint8, to compare and to calibrate on: of different videos."""

    compared: list[Tensor]
    calibration: list[Tensor]


def read_clips(
    spec: ClipSpec,
    videos: Sequence[str],
    number: int,
    *,
    calibrating: bool,
    on_progress: Callable[[str, int, int], None],
) -> Clips:
    """Read the centre view of videos spread evenly over those given.

    Args:
        spec: of the model.
        videos: files and folders.
        number: clips to compare; as many of other videos to calibrate on, if `calibrating`.
        calibrating: whether these are needed.
        on_progress: called with (what, done, in all).

    Raises:
        XViTError: too few videos, one that cannot be read.
    """
    check_range("clips", number, 1)
    paths = find_videos(videos)
    wanted = number * (1 + calibrating)
    if len(paths) < 1 + calibrating:
        raise XViTError(f"{len(paths)} video: expected at least 2: one to calibrate on, another to compare")
    wanted = min(wanted, len(paths))
    chosen = [paths[len(paths) * place // wanted] for place in range(wanted)]
    dataset = VideoDataset(samples=[Sample(path=path, label=None, id=path) for path in chosen], spec=spec)
    clips = []
    for place in range(wanted):
        item = dataset[place]
        if item.error is not None:
            raise item.error
        assert item.pixels is not None
        clips.append(item.pixels)
        on_progress("reading clips", place + 1, wanted)
    return Clips(compared=clips[:: 1 + calibrating], calibration=clips[1::2] if calibrating else [])


@torch.inference_mode()
def compare(
    model: XViT,
    exported: ExportedModel,
    clips: list[Tensor],
    *,
    size: int,
    on_progress: Callable[[str, int, int], None],
) -> Parity:
    """Run both models on clips (1, T, C, H, W) in uint8, and time them in turns on some; `size` is of the program, in
    bytes.
    """

    def ours_of(clip: Tensor) -> dict[str, Tensor]:
        return {task: logits.cpu() for task, logits in as_task_dict(model(clip.to(model.device))).items()}

    differences, largest, agreeing = [], 0.0, []
    for place, pixels in enumerate(clips, start=1):
        clip = normalize(pixels, model.clip_spec)
        ours, theirs = ours_of(clip), as_task_dict(exported(clip))
        for task, logits in ours.items():
            differences.append((logits - theirs[task]).abs())
            largest = max(largest, logits.abs().max().item())
        agreeing.append([bool((ours[task].argmax(-1) == theirs[task].argmax(-1)).all()) for task in ours])
        on_progress("comparing", place, len(clips))
    seconds: dict[str, list[float]] = {}
    for turn, pixels in enumerate(clips[:_TIMED]):
        clip = normalize(pixels, model.clip_spec)
        steps: dict[str, Callable[[], object]] = {"model": partial(ours_of, clip), "exported": partial(exported, clip)}
        for name, times in interleaved(steps, rounds=1, warm_up=int(turn == 0)).items():
            seconds.setdefault(name, []).extend(times)
    all_differences = torch.cat([each.flatten() for each in differences])
    return Parity(
        clips=len(clips),
        max_difference=all_differences.max().item(),
        mean_difference=all_differences.mean().item(),
        largest_logit=largest,
        agreement=min(statistics.fmean(column) for column in zip(*agreeing, strict=True)),
        model_ms=1e3 * statistics.median(seconds["model"]),
        exported_ms=1e3 * statistics.median(seconds["exported"]),
        bytes=size,
    )


def check(parity: Parity, limits: Limits) -> None:
    """Raise `XViTError` if the answers are further apart than the limits."""
    if parity.max_difference != parity.max_difference:
        raise XViTError("the exported model answers with numbers that are none (NaN)")
    if limits.max_difference is not None and parity.max_difference > limits.max_difference:
        raise XViTError(
            f"parity: logits differ by up to {parity.max_difference:.2g} on {parity.clips} clips (the largest logit is "
            f"{parity.largest_logit:.3g}), but --max-difference is {limits.max_difference:g}: nothing was written"
        )
    if parity.agreement < limits.min_agreement:
        raise XViTError(
            f"parity: the same best class on {100 * parity.agreement:.1f} % of {parity.clips} clips, but "
            f"--min-agreement is {limits.min_agreement:g}: nothing was written"
        )
