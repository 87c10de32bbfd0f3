"""Class scores over the time of a long video. Memory does not grow with its length, apart from the scores themselves.

    frame       0    1    2    3    4    5    6    7     at the times of the clip spec; T = 4
    stream      0   0-1  0-2  0-3  1-4  2-5  3-6  4-7    frames seen by the temporal head for each score
    windows                   0-3       2-5       4-7    clips seen by the model, here with predict_every = 2
    time                      1.5       3.5       5.5    of a score: the middle of these frames

A model that `Stream` supports, or an exported streaming step, processes each frame once. Other models and exports
process sliding windows of T frames. Frames are read and resized in a thread, ahead of the model. A prediction is for T
frames, so its score belongs to their middle; at the start of a stream, where there are fewer frames, to the middle of
those. Exported models need no torch.

Frame k is the one on display k stride / frame_rate seconds after the first, so scores do not depend on the rate of the
video. A model whose clip spec has no frame rate sees each stride-th frame of the file instead.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xvit.config import SINGLE_TASK
from xvit.data.decode.sequential import FrameReader
from xvit.export.runtime import ExportedModel
from xvit.inference.frame_stream import ClipScores, FrameStream, StreamScores
from xvit.inference.gating import MotionMeter
from xvit.inference.streams import open_stream, predict_clips, view_function
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.read_ahead import read_ahead

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

    Model = XViT | ExportedModel

Predictions = tuple[list[int], np.ndarray]  # indices of the m frames that end the clips, scores (m, classes)
Chunk = tuple[np.ndarray, np.ndarray]  # times (n,) in seconds, views (n, C, S, S) uint8
RunModel = Callable[[Callable[[], Any]], Any]  # calls a function that runs the model, and returns its result

_CHUNKS_AHEAD = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTimeline:
    """Class scores over the time of the video at `path`.

    Args:
        path: of the video.
        class_names: names of the columns of `scores`.
        times: (N,) seconds from the first frame, ascending.
        scores: (N, classes) float32; each row sums to 1, or is 0 where a calibrated model sees none of its classes.
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
    model: "Model",
    path: str | Path,
    *,
    stride: int | None = None,
    predict_every: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    run_model: RunModel | None = None,
) -> ScoreTimeline:
    """Score a video of any length.

    Args:
        model: a single-task model in eval mode, with its `clip_spec` and `class_names`; or an exported one.
        path: the file. A damaged file is scored as far as it can be read, and `ScoreTimeline.damage` reports it.
        stride: the model sees each stride-th frame, counted at the frame rate of its clip spec, if that has one; None
            for the stride it was trained with.
        predict_every: number of frames it sees from one score to the next; None for 1 in a stream, and half a clip
            with windows.
        on_progress: called with the number of frames decoded and the total.
        run_model: called with each function that runs the model for a moment, for a model that belongs to another
            thread; None to run it in this one.

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
    num_frames = max(int(reader.info.duration * counted_rate / stride), 1)
    if predict_every > num_frames:  # a short video has at least one score
        stream, predict_every = _choose_method(model, num_frames)

    with closing(_read_chunks(reader, model, on_progress)) as items:
        parts = list(_iterate(model, items, stream, predict_every, run_model or _run_here))
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


def _read_chunks(
    reader: FrameReader, model: "Model", on_progress: Callable[[int, int], None] | None
) -> Generator[Chunk, None, None]:
    """The frames of a reader as views, read and resized ahead of the model."""
    views = view_function(model)
    read = ((reader.num_decoded, times, views(frames)) for times, frames in reader)
    with closing(read_ahead(read, _CHUNKS_AHEAD)) as items:
        for num_decoded, times, pixels in items:
            if on_progress is not None:
                on_progress(num_decoded, reader.info.num_frames)
            yield times, pixels


def _fill_start(motion: np.ndarray) -> np.ndarray:
    """Replace infinite values, at the start, by the first finite one, if there is one."""
    known = np.isfinite(motion)
    return np.where(known, motion, motion[known.argmax()])


def iterate_scores(
    model: "Model", chunks: Iterable[tuple[np.ndarray, np.ndarray]], *, predict_every: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Score frames as they arrive; the frames may be endless. The arguments are checked as in `score_video`.

    Args:
        model, predict_every: as in `score_video`.
        chunks: times (n,) in seconds and frames (n, H, W, C) uint8, for example from a `FrameReader`.

    Returns:
        An iterator over times (m,), scores (m, classes) float32 and motion (m,), m >= 1, each as soon as it is known.
    """
    stream, predict_every = _choose_method(model, predict_every)
    views = view_function(model)
    return _iterate(model, ((times, views(frames)) for times, frames in chunks), stream, predict_every, _run_here)


def _run_here(function: Callable[[], Any]) -> Any:
    return function()


def _iterate(
    model: "Model", chunks: Iterable[Chunk], stream: FrameStream | None, predict_every: int, run_model: RunModel
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    frame_times: list[float] = []  # of the latest frames
    frame_motion: list[float] = []
    first = 0  # index of the frame that the first of these values belong to
    window = model.config.num_frames if stream else model.clip_spec.num_frames
    meter = MotionMeter(window)

    def views() -> Iterator[np.ndarray]:
        for times, pixels in chunks:
            frame_times.extend(times.tolist())
            frame_motion.extend(meter.push(pixels))
            yield pixels

    if stream:
        predictions = _predict_stream(stream, views(), run_model)
    else:
        predictions = _predict_windows(model, views(), predict_every, run_model)
    for indices, scores in predictions:
        if not indices:
            continue
        spans = [(max(index - window + 1, 0), index) for index in indices]
        middles = np.array([(frame_times[start - first] + frame_times[end - first]) / 2 for start, end in spans])
        motion = np.array([frame_motion[end - first] for _, end in spans])
        past = max(indices[-1] - window + 1, 0) - first  # later windows begin no earlier
        del frame_times[:past], frame_motion[:past]
        first += past
        yield middles, scores, motion


def _predict_stream(stream: FrameStream, views: Iterator[np.ndarray], run_model: RunModel) -> Iterator[Predictions]:
    output = None
    for pixels in views:
        output = run_model(partial(stream.push, pixels))
        yield output.indices, _known_scores(output)
    if output is not None:
        output = run_model(stream.flush)
        yield output.indices, _known_scores(output)


def _predict_windows(
    model: "Model", views: Iterator[np.ndarray], predict_every: int, run_model: RunModel
) -> Iterator[Predictions]:
    """A window of T frames every `predict_every` frames. A shorter video is one window, padded with its last frame."""
    window = model.clip_spec.num_frames
    latest: deque[np.ndarray] = deque(maxlen=window)
    seen, predicted = 0, False
    for pixels in views:
        ends, clips = [], []
        for view in pixels:
            latest.append(view)
            seen += 1
            if seen >= window and seen % predict_every == 0:
                ends.append(seen - 1)
                clips.append(np.stack(latest))
        if clips:
            predicted = True
            yield ends, _known_scores(run_model(partial(predict_clips, model, np.stack(clips))))
    if latest and not predicted:
        clip = [*latest, *[latest[-1]] * (window - len(latest))]
        yield [seen - 1], _known_scores(run_model(partial(predict_clips, model, np.stack(clip)[None])))


def _known_scores(clips: ClipScores | StreamScores) -> np.ndarray:
    """Scores (m, classes); all are 0 where the calibration says that no class is shown: background."""
    scores, margins = clips.scores[SINGLE_TASK], clips.margins.get(SINGLE_TASK)
    return scores if margins is None else np.where(margins[:, None] >= 0, scores, np.float32(0))


def _choose_method(model: "Model", predict_every: int | None) -> tuple[FrameStream | None, int]:
    """The stream, or None for windows; and the number of frames from one score to the next. Checks both arguments."""
    _check_model(model)
    if predict_every is not None:
        check_range("predict_every", predict_every, 1)
    try:
        return open_stream(model, predict_every=predict_every or 1), predict_every or 1
    except XViTError:
        if isinstance(model, ExportedModel) and model.manifest.state:
            raise  # a step that cannot be used
        return None, predict_every or max(model.clip_spec.num_frames // 2, 1)  # the model cannot be streamed exactly


def _resolve_stride(model: "Model", stride: int | None) -> int:
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


def _check_model(model: "Model") -> None:
    if not isinstance(model, ExportedModel) and model.training:
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
