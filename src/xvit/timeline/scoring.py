"""A long video -> class scores over time, in memory that does not grow with its length (but for the scores).

    frame       0    1    2    3    4    5    6    7     each stride-th of the file; T = 4
    streamed    0   0-1  0-2  0-3  1-4  2-5  3-6  4-7    frames that the temporal head sees, each time `every` have come
    windows                   0-3       2-5       4-7    clips that the model sees, here with every = 2
    time                      1.5       3.5       5.5    of a score: the middle of these frames

A model that `XViT.stream` takes sees each frame once. The others see windows of T frames, each frame decoded, resized
and normalised once. The model says one thing of T frames, so a score belongs to the middle of them; at the start of a
stream, where there are fewer, to the middle of those.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xvit.data.decode.sequential import FrameReader
from xvit.data.transforms import eval_views, normalize
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError, check_range

Answers = tuple[list[int], Tensor]  # m frames that end what was seen, logits (m, classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTimeline:
    """Class scores over the time of a video.

    Args:
        path: the video.
        class_names: names of the K classes.
        times: (N,) seconds from the first frame, ascending.
        values: (N, K) float32, each row adding up to 1.
        duration: seconds of the video, as far as it can be read.
        method: stream or windows.
        stride: frames of the file from one that the model saw to the next.
        every: of those frames, from one score to the next.
        damage: what is wrong with the file; empty for nothing.

    Raises:
        XViTError: shapes that do not fit together, times that do not ascend.
    """

    path: str
    class_names: list[str]
    times: np.ndarray
    values: np.ndarray
    duration: float
    method: Literal["stream", "windows"]
    stride: int
    every: int
    damage: str = ""

    def __post_init__(self) -> None:
        expected = (len(self.times), len(self.class_names))
        if self.values.shape != expected or self.times.ndim != 1 or not len(self.times):
            raise XViTError(f"scores of shape {self.values.shape}: expected {expected}, at least 1 row and 1 column")
        if (np.diff(self.times) <= 0).any():
            raise XViTError("times of scores: expected ascending ones")


def score_video(
    model: XViT,
    path: str | Path,
    *,
    stride: int | None = None,
    every: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreTimeline:
    """Score a video of any length.

    Args:
        model: in eval mode, of one task, with its `clip` and `labels`.
        path: the file. A damaged one is scored as far as it goes, and `ScoreTimeline.damage` says so.
        stride: frames of the file from one that the model sees to the next; None for the stride it was trained with.
        every: of those frames, from one score to the next; None for each one of a stream, half a clip of windows.
        on_progress: called with the numbers of frames decoded and of all frames.

    Raises:
        VideoError: a file that cannot be read.
        XViTError: no stride, where the model was trained on frames spread over whole videos; a number out of its range;
            a model in training mode, of several tasks or without classes.
    """
    _check(model)
    stride = _stride(model, stride)
    stream, every = _method(model, every)
    reader = FrameReader(path, stride=stride, short_side=model.clip_spec.image_size)
    every = min(every, -(-reader.info.num_frames // stride))  # a short video has one score at least

    def chunks() -> Iterator[tuple[np.ndarray, Tensor]]:
        for chunk in reader:
            if on_progress is not None:
                on_progress(reader.seen, reader.info.num_frames)
            yield chunk

    parts = list(iterate_scores(model, chunks(), every=every))
    if not parts:
        raise VideoError(path, f"only {reader.seen} frames can be decoded, too few for a score each {every * stride}")
    if on_progress is not None:
        on_progress(reader.info.num_frames, reader.info.num_frames)
    return ScoreTimeline(
        path=str(path),
        class_names=list(model.class_names),
        times=np.concatenate([times for times, _ in parts]),
        values=np.concatenate([values for _, values in parts]),
        duration=reader.end,
        method="stream" if stream else "windows",
        stride=stride,
        every=every,
        damage=reader.damage,
    )


def iterate_scores(
    model: XViT, chunks: Iterable[tuple[np.ndarray, Tensor]], *, every: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Score frames as they come: `score_video` without an end.

    Args:
        model: as `score_video` takes.
        chunks: times (n,) in seconds and frames (n, C, H, W) uint8, of a `FrameReader` or of anything else.
        every: as `score_video` takes.

    Returns:
        An iterator over times (m,) and scores (m, classes) float32, m >= 1: as soon as they are known.

    Raises:
        XViTError: as `score_video`.
    """
    _check(model)
    stream, every = _method(model, every)
    window = model.config.num_frames if stream else model.clip_spec.num_frames
    return _iterate(model, chunks, stream, window, every)


def _iterate(
    model: XViT, chunks: Iterable[tuple[np.ndarray, Tensor]], stream: Stream | None, window: int, every: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    device = next(model.parameters()).device
    recent: list[float] = []  # times of the latest frames
    first = 0  # the frame that the first of them is of

    def prepared() -> Iterator[Tensor]:
        """(n, C, S, S) float32, on the model's device."""
        for times, frames in chunks:
            recent.extend(times.tolist())
            yield normalize(eval_views(frames, model.clip_spec)[0], model.clip_spec, device)

    answers = _windows(model, prepared(), window, every) if stream is None else _streamed(stream, prepared())
    for indices, logits in answers:
        if not indices:
            continue
        ends = [(max(index - window + 1, 0), index) for index in indices]
        middles = np.array([(recent[start - first] + recent[end - first]) / 2 for start, end in ends])
        past = max(indices[-1] - window + 1, 0) - first  # what comes next begins no earlier
        del recent[:past]
        first += past
        yield middles, model.probabilities(logits).cpu().numpy()


def _streamed(stream: Stream, prepared: Iterator[Tensor]) -> Iterator[Answers]:
    pushed = False
    for pixels in prepared:
        output = stream.push(pixels[None])  # (n, C, S, S) -> (1, n, C, S, S)
        pushed = True
        assert isinstance(output.logits, Tensor)  # of one task
        yield output.indices, output.logits[0]
    if pushed:
        output = stream.flush()
        assert isinstance(output.logits, Tensor)
        yield output.indices, output.logits[0]


def _windows(model: XViT, prepared: Iterator[Tensor], window: int, every: int) -> Iterator[Answers]:
    """Clips of `window` frames, one each `every` frames; of a shorter video one, its last frame repeated."""
    ring: deque[Tensor] = deque(maxlen=window)
    seen = answered = 0
    for pixels in prepared:
        ends, clips = [], []
        for frame in pixels:
            ring.append(frame)
            seen += 1
            if seen >= window and seen % every == 0:
                ends.append(seen - 1)
                clips.append(torch.stack(list(ring)))
        if clips:
            answered += len(clips)
            yield ends, _logits(model, torch.stack(clips))
    if ring and not answered:
        clip = [*ring, *[ring[-1]] * (window - len(ring))]
        yield [seen - 1], _logits(model, torch.stack(clip)[None])


@torch.no_grad()
def _logits(model: XViT, pixel_values: Tensor) -> Tensor:
    logits: Tensor = model(pixel_values)
    return logits


def _method(model: XViT, every: int | None) -> tuple[Stream | None, int]:
    """The stream, or None for windows; and how many frames there are from score to score."""
    if every is not None:
        check_range("every", every, 1)
    try:
        return Stream(model, predict_every=every or 1), every or 1
    except XViTError:  # the model cannot be streamed exactly
        return None, every or max(model.clip_spec.num_frames // 2, 1)


def _stride(model: XViT, stride: int | None) -> int:
    if stride is not None:
        check_range("stride", stride, 1)
        return stride
    if model.clip_spec.sampling == "segments":
        raise XViTError(
            f"--stride: missing: the model was trained on {model.clip_spec.num_frames} frames spread over whole videos. If "
            f"those had about 10 x {model.clip_spec.num_frames} frames, --stride 10 shows it long ones at the same pace"
        )
    return model.clip_spec.stride


def _check(model: XViT) -> None:
    if model.training:
        raise XViTError("the model is in training mode: call eval() first")
    if isinstance(model.class_names, dict):
        raise XViTError(
            f"a model of several tasks ({', '.join(model.class_names)}): a timeline shows the classes of one"
        )
    if model.config.multi_label:
        raise XViTError(
            "a multi-label model: a timeline shows one class at a time; `xvit stream` tells the scores of all"
        )
    if not model.class_names:
        raise XViTError("a model without classes has no scores: take one that was trained on labelled videos")
