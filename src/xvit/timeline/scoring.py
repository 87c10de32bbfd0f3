"""Class scores over the time of a long video. Memory does not grow with its length, apart from the scores themselves.

    frame       0    1    2    3    4    5    6    7     at the times of the clip spec; T = 4
    stream      0   0-1  0-2  0-3  1-4  2-5  3-6  4-7    frames seen by the temporal head for each score
    windows                   0-3       2-5       4-7    clips seen by the model, here with predict_every = 2
    time                      1.5       3.5       5.5    of a score: the middle of these frames

A model that `Stream` supports processes each frame once. Other models process sliding windows of T frames; each frame
is resized and normalised once. A prediction is for T frames, so its score belongs to their middle; at the start of a
stream, where there are fewer frames, to the middle of those.

Frame k is the one on display k stride / frame_rate seconds after the first, so scores do not depend on the rate of the
video. A model whose clip spec has no frame rate sees each stride-th frame of the file instead.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, as_task_dict
from xvit.data.decode.sequential import FrameReader
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference.gating import MotionMeter
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError, check_range

Predictions = tuple[list[int], Tensor]  # indices of the m frames that end the clips, logits (m, classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTimeline:
    """Class scores over the time of the video at `path`.

    Args:
        times: (N,) seconds from the first frame, ascending.
        scores: (N, classes) float32; each row sums to 1.
        motion: (N,) grey levels by which the picture changes in the frames of each score; see `MotionMeter`. Scores of
            fewer than T frames, at the start, have the value of the first one of T frames.
        duration: seconds of the video, as far as it can be read.
        clip_duration: seconds of the model's clip: T stride / frame_rate.
        method: stream or windows.
        frame_rate: frames per second that `stride` counts in; None if it counts the frames of the file.
        stride: the model sees each stride-th of these frames.
        predict_every: number of frames that the model sees from one score to the next.
        damage: what is wrong with the file; empty if nothing is.
        warnings: what else makes the scores doubtful, in words.

    Raises:
        XViTError: the shapes do not match, or the times do not ascend.
    """

    path: str
    class_names: list[str]
    times: np.ndarray
    scores: np.ndarray
    motion: np.ndarray
    duration: float
    clip_duration: float
    method: Literal["stream", "windows"]
    frame_rate: float | None
    stride: int
    predict_every: int
    damage: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.times), len(self.class_names))
        if self.scores.shape != expected or self.times.ndim != 1 or not len(self.times):
            raise XViTError(f"scores of shape {self.scores.shape}: expected {expected}, at least 1 row and 1 column")
        if self.motion.shape != self.times.shape:
            raise XViTError(f"motion of shape {self.motion.shape}: expected {self.times.shape}, one per score")
        if (np.diff(self.times) <= 0).any():
            raise XViTError("times of scores: expected ascending times")


def score_video(
    model: XViT,
    path: str | Path,
    *,
    stride: int | None = None,
    predict_every: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoreTimeline:
    """Score a video of any length.

    Args:
        model: a single-task model in eval mode, with its `clip_spec` and `class_names`.
        path: the file. A damaged file is scored as far as it can be read, and `ScoreTimeline.damage` reports it.
        stride: the model sees each stride-th frame, counted at the frame rate of its clip spec, if that has one; None
            for the stride it was trained with.
        predict_every: number of frames it sees from one score to the next; None for 1 in a stream, and half a clip
            with windows.
        on_progress: called with the number of frames decoded and the total.

    Raises:
        VideoError: the file cannot be read.
        XViTError: no stride is given, and the model was trained on frames spread over whole videos at no known rate; a
            number is out of range; the model is in training mode, has several tasks, or has no classes.
    """
    stream, predict_every = _choose_method(model, predict_every)
    stride = _resolve_stride(model, stride)
    frame_rate = model.clip_spec.frame_rate
    reader = FrameReader(path, stride=stride, frame_rate=frame_rate, short_side=model.clip_spec.image_size)
    counted_rate = frame_rate or reader.info.fps
    # A short video has at least one score.
    predict_every = min(predict_every, max(int(reader.info.duration * counted_rate / stride), 1))

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for chunk in reader:
            if on_progress is not None:
                on_progress(reader.num_decoded, reader.info.num_frames)
            yield chunk

    parts = list(iterate_scores(model, chunks(), predict_every=predict_every))
    if not parts:
        needed = f"one score in {predict_every * stride / counted_rate:.3g} s"
        raise VideoError(path, f"only {reader.num_decoded} frames can be decoded, too few for {needed}")
    if on_progress is not None:
        on_progress(reader.info.num_frames, reader.info.num_frames)
    return ScoreTimeline(
        path=str(path),
        class_names=list(model.class_names),
        times=np.concatenate([times for times, _, _ in parts]),
        scores=np.concatenate([scores for _, scores, _ in parts]),
        motion=_fill_start(np.concatenate([motion for _, _, motion in parts])),
        duration=reader.end_time,
        clip_duration=model.clip_spec.num_frames * stride / counted_rate,
        method="stream" if stream else "windows",
        frame_rate=frame_rate,
        stride=stride,
        predict_every=predict_every,
        damage=reader.damage,
        warnings=reader.warnings,
    )


def _fill_start(motion: np.ndarray) -> np.ndarray:
    """Replace infinite values, at the start, by the first finite one, if there is one."""
    known = np.isfinite(motion)
    return np.where(known, motion, motion[known.argmax()])


def iterate_scores(
    model: XViT, chunks: Iterable[tuple[np.ndarray, np.ndarray]], *, predict_every: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Score frames as they arrive; the frames may be endless. The arguments are checked as in `score_video`.

    Args:
        model, predict_every: as in `score_video`.
        chunks: times (n,) in seconds and frames (n, H, W, C) uint8, for example from a `FrameReader`.

    Returns:
        An iterator over times (m,), scores (m, classes) float32 and motion (m,), m >= 1, each as soon as it is known.
    """
    stream, predict_every = _choose_method(model, predict_every)
    return _iterate(model, chunks, stream, predict_every)


def _iterate(
    model: XViT, chunks: Iterable[tuple[np.ndarray, np.ndarray]], stream: Stream | None, predict_every: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    frame_times: list[float] = []  # of the latest frames
    frame_motion: list[float] = []
    first = 0  # index of the frame that the first of these values belong to
    window = model.config.num_frames if stream else model.clip_spec.num_frames
    meter = MotionMeter(window)

    def views() -> Iterator[Tensor]:
        """Model inputs (n, C, S, S) float32, on the model's device."""
        for times, frames in chunks:
            pixels = eval_views(as_tensor(frames), model.clip_spec)[0]
            frame_times.extend(times.tolist())
            frame_motion.extend(meter.push(pixels))
            yield normalize(pixels, model.clip_spec, model.device)

    predictions = _predict_stream(stream, views()) if stream else _predict_windows(model, views(), predict_every)
    for indices, logits in predictions:
        if not indices:
            continue
        spans = [(max(index - window + 1, 0), index) for index in indices]
        middles = np.array([(frame_times[start - first] + frame_times[end - first]) / 2 for start, end in spans])
        motion = np.array([frame_motion[end - first] for _, end in spans])
        past = max(indices[-1] - window + 1, 0) - first  # later windows begin no earlier
        del frame_times[:past], frame_motion[:past]
        first += past
        yield middles, model.probabilities(logits).cpu().numpy(), motion


def _predict_stream(stream: Stream, views: Iterator[Tensor]) -> Iterator[Predictions]:
    output = None
    for pixel_values in views:
        output = stream.push(pixel_values[None])  # (n, C, S, S) -> (1, n, C, S, S)
        yield output.indices, as_task_dict(output.logits)[SINGLE_TASK][0]
    if output is not None:
        output = stream.flush()
        yield output.indices, as_task_dict(output.logits)[SINGLE_TASK][0]


@torch.no_grad()
def _predict_windows(model: XViT, views: Iterator[Tensor], predict_every: int) -> Iterator[Predictions]:
    """A window of T frames every `predict_every` frames. A shorter video is one window, padded with its last frame."""
    window = model.clip_spec.num_frames
    latest: deque[Tensor] = deque(maxlen=window)
    seen, predicted = 0, False
    for pixel_values in views:
        ends, clips = [], []
        for frame in pixel_values:
            latest.append(frame)
            seen += 1
            if seen >= window and seen % predict_every == 0:
                ends.append(seen - 1)
                clips.append(torch.stack(list(latest)))
        if clips:
            predicted = True
            yield ends, model(torch.stack(clips))
    if latest and not predicted:
        clip = [*latest, *[latest[-1]] * (window - len(latest))]
        yield [seen - 1], model(torch.stack(clip)[None])


def _choose_method(model: XViT, predict_every: int | None) -> tuple[Stream | None, int]:
    """The stream, or None for windows; and the number of frames from one score to the next. Checks both arguments."""
    _check_model(model)
    if predict_every is not None:
        check_range("predict_every", predict_every, 1)
    try:
        return Stream(model, predict_every=predict_every or 1), predict_every or 1
    except XViTError:  # the model cannot be streamed exactly
        return None, predict_every or max(model.clip_spec.num_frames // 2, 1)


def _resolve_stride(model: XViT, stride: int | None) -> int:
    if stride is not None:
        check_range("stride", stride, 1)
        return stride
    if model.clip_spec.spacing is None:
        frames = model.clip_spec.num_frames
        raise XViTError(
            f"--stride: missing: the model was trained on {frames} frames spread over whole videos. If these had about "
            f"10 x {frames} frames, --stride 10 shows the model long videos at the same frame spacing"
        )
    return model.clip_spec.spacing


def _check_model(model: XViT) -> None:
    if model.training:
        raise XViTError("the model is in training mode: call eval() first")
    if isinstance(model.class_names, dict):
        raise XViTError(
            f"the model has several tasks ({', '.join(model.class_names)}): a timeline needs a single-task model"
        )
    if model.config.multi_label:
        raise XViTError(
            "a multi-label model: a timeline shows one class at a time; `xvit stream` shows the scores of all classes"
        )
    if not model.class_names:
        raise XViTError("a model without classes has no scores: use one that was trained on labelled videos")
