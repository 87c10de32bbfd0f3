"""Predictions for a live source with a streaming model.

    thread of the source: frames ──▶ stride / frame_rate apart ──▶ centre view ──▶ buffer
    this thread:          buffer ──▶ FrameStream.push ──▶ LivePrediction, later by `latency_frames`

The frames are those that the model was trained on: a fixed time apart, whatever the rate of the source, or each
stride-th one, if its clip spec has no frame rate. The scores equal those of the model on all these frames at once.
Where frames were dropped, the spacing is wider; drops are reported and counted. A change of the frame size has no
effect, because each frame is resized to the same view. After a reconnection the stream starts anew, because an unknown
number of frames was missed. An exported streaming step needs no torch.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xvit.config import as_task_dict
from xvit.data.capture.source import Frame, Source, SourceEvent
from xvit.export.runtime import ExportedModel
from xvit.inference.frame_stream import StreamScores
from xvit.inference.gating import MOTION_THRESHOLD, MotionMeter, resolve_ignored
from xvit.inference.predictor import Known, Labels, Scores, choose_labels, rank_classes
from xvit.inference.streams import open_stream, view_function
from xvit.utils.errors import XViTError, check_range

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

_LAG_HISTORY = 10_000  # latest predictions in the lag statistics; bounded, because a source may be endless
_RATE_HISTORY = 32  # latest frames in the recent frame rate


@dataclass(frozen=True, kw_only=True)
class LivePrediction:
    """The prediction at one frame, best class first. With several tasks, labels and scores are dicts of tasks.

    Args:
        frame: index of the frame in the source, from 0.
        time: timestamp of the frame, in seconds from the first frame of the source.
        label: the best class; None if its score is below the threshold, if it is ignored, if nothing moves, or if the
            frames show none of the classes.
        labels: all class names, in order of descending score.
        scores: their scores, in [0, 1]; they sum to 1 unless the model is multi-label.
        moving: something moves in the T latest frames, or there are fewer so far.
        lag_seconds: time from the moment the frame was due until the prediction.
        known: whether the frames show one of the classes, by the model's calibration; None if the model has none.
    """

    frame: int
    time: float
    label: str | dict[str, str | None] | None
    labels: Labels
    scores: Scores
    moving: bool
    lag_seconds: float
    known: Known = None


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """Statistics of a run, so far.

    Args:
        read: frames received from the source: read + repeated = processed + skipped + dropped + undelivered.
        repeated: how often a frame was given to the model again, because the source is slower than the frame rate.
        processed: frames given to the model.
        reused: those of them for which no layer ran: the picture had stood still for so long that nothing could change.
        skipped: frames skipped by the stride.
        dropped: frames lost because the model was slower than the source.
        undelivered: frames that had been read ahead when the run was stopped.
        damaged: packets or frames that could not be decoded, or are flagged as damaged.
        predictions: number of predictions.
        reconnects: attempts to reach the source again.
        seconds: time since the first frame.
        frames_per_second: frames processed per second, on average.
        recent_frames_per_second: the same over the latest 32 frames.
        mean_lag_seconds: mean lag of the latest 10,000 predictions.
        p95_lag_seconds: 95th percentile of these lags.
    """

    read: int
    repeated: int
    processed: int
    reused: int
    skipped: int
    dropped: int
    undelivered: int
    damaged: int
    predictions: int
    reconnects: int
    seconds: float
    frames_per_second: float
    recent_frames_per_second: float
    mean_lag_seconds: float
    p95_lag_seconds: float


class _PendingFrame(NamedTuple):
    stream_index: int  # counted from the last reset of the stream
    source_index: int
    time: float
    due_time: float
    motion: float  # grey levels


class LivePredictor:
    """A model on a live source. Iterate over it once: it yields `LivePrediction` and `SourceEvent` objects.

    Args:
        model: a model that can be streamed, in eval mode, or an exported streaming step.
        source: the frames; nothing else may read from it.
        stride: process each stride-th frame, counted at the frame rate of the model's `ClipSpec`, if it has one. None
            for the stride of the `ClipSpec`, or 1 for a model that was trained on frames spread over whole videos at no
            known rate.
        predict_every: predict at each processed frame (1), or at each second (2), third (3), ... one.
        threshold: score in [0, 1] below which `LivePrediction.label` is None.
        ignore: classes for which it is None, too; without a value the class "background", if the model has one.
        motion_threshold: motion in grey levels (see `MotionMeter`) below which it is None, too; 0 for no such limit.
        unchanged_threshold: compute only patches that changed by more, an approximation; see `xvit.Stream`.

    Raises:
        XViTError: the model cannot be streamed, has no classes or not those to ignore; a value is out of range. While
            iterating: the source does not yield a single frame.
    """

    def __init__(
        self,
        model: "XViT | ExportedModel",
        source: Source,
        *,
        stride: int | None = None,
        predict_every: int = 1,
        threshold: float = 0.0,
        ignore: Sequence[str] | None = None,
        motion_threshold: float = MOTION_THRESHOLD,
        unchanged_threshold: float | None = None,
    ) -> None:
        check_range("stride", 1 if stride is None else stride, 1)
        check_range("threshold", threshold, 0, 1)
        check_range("motion_threshold", motion_threshold, 0)
        self.model, self.source = model, source
        self.threshold, self.motion_threshold = threshold, motion_threshold
        self.frame_rate = model.clip_spec.frame_rate
        self._stride_unknown = stride is None and model.clip_spec.spacing is None
        self.stride = stride or model.clip_spec.spacing or 1
        if not any(as_task_dict(model.class_names).values()):
            raise XViTError("the model has no classes to predict: use one that was trained on labelled videos")
        self.ignore = resolve_ignored(model.class_names, ignore)
        self.stream = open_stream(model, predict_every=predict_every, unchanged_threshold=unchanged_threshold)
        self._meter = MotionMeter(model.config.num_frames)
        self._gate_open = True  # as last reported
        self._pending: deque[_PendingFrame] = deque()  # frames without a prediction so far
        self._pushed = self._processed = self._predictions = 0  # pushed: since the last reset of the stream
        self._lags: deque[float] = deque(maxlen=_LAG_HISTORY)
        self._push_times: deque[float] = deque(maxlen=_RATE_HISTORY)
        self._started: float | None = None

    def __iter__(self) -> Generator[LivePrediction | SourceEvent, None, None]:
        """Run until the source ends, and then yield the predictions for the frames that are still pending."""
        size, views = self.model.clip_spec.image_size, view_function(self.model)
        self.stream.push(np.zeros((1, 3, size, size), np.uint8))  # warm-up: the first push is slow
        self.stream.reset()
        frames = self.source.frames(
            stride=self.stride,
            frame_rate=self.frame_rate,
            short_side=size,
            prepare=lambda pixels: views(pixels[None]),  # (1, C, S, S)
        )
        with closing(frames) as items:
            for item in items:
                if isinstance(item, Frame):
                    yield from self._process(item)
                    continue
                yield item
                if item.kind == "opened":
                    yield from self._describe()
                if item.kind == "reconnected":
                    yield from self._flush()
                    self.stream.reset()
                    self._meter, self._pushed = MotionMeter(self.model.config.num_frames), 0
        yield from self._flush()

    def _describe(self) -> Generator[SourceEvent, None, None]:
        """Events that say which frames the model sees, and which classes have no label."""
        if self.frame_rate:
            rate = f"{self.frame_rate / self.stride:.4g} frames per second"
            yield SourceEvent(kind="sampling", message=f"the model sees {rate}, whatever the rate of the source")
        if self._stride_unknown:
            yield SourceEvent(
                kind="stride",
                message=f"the model was trained on {self.model.clip_spec.num_frames} frames spread over whole "
                "videos; every frame is processed: if that is too dense, set a stride",
            )
        if self.ignore:
            names = ", ".join(self.ignore)
            yield SourceEvent(kind="ignored", message=f"ignored, without a label: {names}")

    @property
    def stats(self) -> StreamStats:
        """The statistics so far."""
        counts, times = self.source.counts, self._push_times
        seconds = times[-1] - self._started if self._started is not None and times else 0.0
        recent = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        lags = np.array(self._lags or [0.0])
        return StreamStats(
            read=counts.read,
            repeated=counts.repeated,
            processed=self._processed,
            reused=self.stream.num_reused,
            skipped=counts.skipped,
            dropped=counts.dropped,
            undelivered=counts.read + counts.repeated - self._processed - counts.skipped - counts.dropped,
            damaged=counts.damaged,
            predictions=self._predictions,
            reconnects=self.source.reconnects,
            seconds=seconds,
            frames_per_second=self._processed / seconds if seconds else 0.0,
            recent_frames_per_second=recent,
            mean_lag_seconds=float(lags.mean()),
            p95_lag_seconds=float(np.quantile(lags, 0.95)),
        )

    def _process(self, frame: Frame) -> Generator[LivePrediction | SourceEvent, None, None]:
        if self._started is None:
            self._started = time.monotonic()
        [motion] = self._meter.push(frame.pixels)
        self._pending.append(_PendingFrame(self._pushed, frame.index, frame.time, frame.due_time, motion))
        self._pushed, self._processed = self._pushed + 1, self._processed + 1
        output = self.stream.push(frame.pixels)
        self._push_times.append(time.monotonic())
        yield from self._predict(output)

    def _flush(self) -> Generator[LivePrediction | SourceEvent, None, None]:
        if self._pushed:
            yield from self._predict(self.stream.flush())
            self._pending.clear()

    def _predict(self, output: StreamScores) -> Generator[LivePrediction | SourceEvent, None, None]:
        for row, stream_index in enumerate(output.indices):
            while self._pending[0].stream_index < stream_index:  # frames between two predictions
                self._pending.popleft()
            frame = self._pending.popleft()
            moving = frame.motion >= self.motion_threshold
            yield from self._report_gate(moving, frame)
            ranked = rank_classes(output, row, self.model.class_names)
            lag = time.monotonic() - frame.due_time
            self._lags.append(lag)
            self._predictions += 1
            yield LivePrediction(
                frame=frame.source_index,
                time=frame.time,
                label=choose_labels(ranked, moving=moving, threshold=self.threshold, ignore=self.ignore),
                moving=moving,
                lag_seconds=lag,
                **ranked._asdict(),
            )

    def _report_gate(self, moving: bool, frame: _PendingFrame) -> Generator[SourceEvent, None, None]:
        """An event when motion ends or begins."""
        if moving != self._gate_open:
            self._gate_open = moving
            text = "motion again" if moving else "nothing moves: no label until something does"
            yield SourceEvent(kind="motion", message=f"{frame.time:.2f} s: {text}")
