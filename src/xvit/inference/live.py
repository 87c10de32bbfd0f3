"""A live source through the streaming model: events out, for a terminal, a file or a program of one's own.

    source: frames ──▶ each stride-th ──▶ centre view ──▶ Stream.push ──▶ LivePrediction, `latency_frames` later

Of frames at the spacing that the model was trained with, the scores are those of the model on all of them at once.
Where frames were dropped the spacing is wider: that is reported and counted. A new size of the picture changes nothing,
as each frame becomes the same view; after a reconnection the stream begins anew, for nobody knows what was missed.
"""

import time
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from xvit.config import SINGLE_TASK, as_task_dict, unwrap_single_task
from xvit.data.capture.source import Frame, FrameCounts, SourceEvent
from xvit.data.transforms import eval_views, normalize
from xvit.inference.predictor import ranked
from xvit.models.streaming import Stream, StreamOutput
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range

__all__ = ["Frames", "LivePrediction", "LivePredictor", "SourceEvent", "StreamStats"]

_LAGS = 10_000  # answers whose lag is remembered: an endless source must not fill the memory
_RECENT = 32  # frames over which the present rate is measured


class Frames(Protocol):
    """What `LivePredictor` needs of a source: `xvit.data.capture.source.Source` is one."""

    reconnects: int

    @property
    def tally(self) -> FrameCounts:
        """Frames counted so far."""

    def frames(self, *, stride: int = 1, short_side: int | None = None) -> Generator[Frame | SourceEvent, None, None]:
        """Frames and notices as they come."""


@dataclass(frozen=True, kw_only=True)
class LivePrediction:
    """What the model says at one frame, best class first. For several tasks dicts of tasks, as in `Prediction`.

    Args:
        frame: number of the frame in the source, from 0.
        time: of the frame, in seconds from the source's first.
        label: the best class; None if its score is below the threshold: nothing of these.
        labels: names of all classes, from the highest score down.
        scores: their scores, in [0, 1], adding up to 1.
        lag_seconds: from the moment that the frame was due until the answer.
    """

    frame: int
    time: float
    label: str | dict[str, str | None] | None
    labels: tuple[str, ...] | dict[str, tuple[str, ...]]
    scores: tuple[float, ...] | dict[str, tuple[float, ...]]
    lag_seconds: float


@dataclass(frozen=True, kw_only=True)
class StreamStats:
    """A run in numbers, so far.

    Args:
        read: frames that the source gave: fed + skipped + dropped + left.
        fed: frames that the model saw.
        skipped: frames passed over by the stride.
        dropped: frames lost because the model was slower than the source.
        left: frames that were read ahead when the run was stopped.
        damaged: packets or frames that could not be decoded, or are flagged as damaged.
        answered: frames that scores were given for.
        reconnects: attempts to reach the source again.
        seconds: from the first frame on.
        frames_per_second: that the model saw, on average.
        recent_frames_per_second: the same over the latest frames.
        mean_lag_seconds: of the latest 10,000 answers.
        lag_95_seconds: the lag that 95 % of them stayed below.
    """

    read: int
    fed: int
    skipped: int
    dropped: int
    left: int
    damaged: int
    answered: int
    reconnects: int
    seconds: float
    frames_per_second: float
    recent_frames_per_second: float
    mean_lag_seconds: float
    lag_95_seconds: float


class LivePredictor:
    """A model and a source, to be iterated over once: `LivePrediction` and `SourceEvent`s as they come.

    Args:
        model: a streamable one, in eval mode.
        source: read here, by nobody else.
        stride: feed each stride-th frame; None for the model's own spacing (`ClipSpec.stride`), or each frame for a
            model that was trained on frames spread over whole videos.
        every: answer each fed frame, or each second, third, ... one.
        threshold: score in [0, 1] below which the answer is None.

    Raises:
        XViTError: a model that cannot be streamed or has no classes, a value out of its range. While iterating: a
            source that gives not one frame.
    """

    def __init__(
        self, model: XViT, source: Frames, *, stride: int | None = None, every: int = 1, threshold: float = 0.0
    ) -> None:
        check_range("stride", 1 if stride is None else stride, 1)
        check_range("threshold", threshold, 0, 1)
        self.model, self.source, self.threshold, self.every = model, source, threshold, every
        self.spread = stride is None and model.clip_spec.sampling == "segments"
        self.stride = stride or (1 if self.spread else model.clip_spec.stride)
        self.names = as_task_dict(model.class_names)
        if not any(self.names.values()):
            raise XViTError("a model without classes has nothing to say of a stream: train it, or take another")
        self.stream = Stream(model, predict_every=every)
        self.device = next(model.parameters()).device
        self._waiting: deque[tuple[int, int, float, float]] = deque()  # number, index, time, due of frames unanswered
        self._pushed = self._fed = self._answered = 0  # pushed: since the stream's last reset
        self._lags: deque[float] = deque(maxlen=_LAGS)
        self._moments: deque[float] = deque(maxlen=_RECENT)
        self._began: float | None = None

    def __iter__(self) -> Generator[LivePrediction | SourceEvent, None, None]:
        """Run until the source ends; the frames that still wait are answered then."""
        size = self.model.clip_spec.image_size
        self.stream.push(torch.zeros(1, 1, 3, size, size, device=self.device))  # the first push is slow: not a live one
        self.stream.reset()
        with closing(self.source.frames(stride=self.stride, short_side=size)) as items:
            for item in items:
                if isinstance(item, Frame):
                    yield from self._feed(item)
                    continue
                yield item
                if item.kind == "opened" and self.spread:
                    text = f"the model was trained on {self.model.clip_spec.num_frames} frames spread over whole videos"
                    yield SourceEvent(
                        kind="stride", text=f"{text}; each frame is fed: if that is too dense, give a stride"
                    )
                if item.kind == "reconnected":
                    yield from self._flush()
                    self.stream.reset()
                    self._pushed = 0
        yield from self._flush()

    @property
    def counts(self) -> StreamStats:
        """The numbers so far."""
        tally, moments = self.source.tally, self._moments
        seconds = moments[-1] - self._began if self._began is not None and moments else 0.0
        recent = (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0
        lags = np.array(self._lags or [0.0])
        return StreamStats(
            read=tally.read,
            fed=self._fed,
            skipped=tally.skipped,
            dropped=tally.dropped,
            left=tally.read - self._fed - tally.skipped - tally.dropped,
            damaged=tally.damaged,
            answered=self._answered,
            reconnects=self.source.reconnects,
            seconds=seconds,
            frames_per_second=self._fed / seconds if seconds else 0.0,
            recent_frames_per_second=recent,
            mean_lag_seconds=float(lags.mean()),
            lag_95_seconds=float(np.quantile(lags, 0.95)),
        )

    def _feed(self, frame: Frame) -> Generator[LivePrediction, None, None]:
        if self._began is None:
            self._began = time.monotonic()
        clip = self.model.clip_spec
        views = eval_views(frame.pixels[None], clip).contiguous()  # (C, H, W) -> (1, 1, C, S, S): as it is evaluated
        self._waiting.append((self._pushed, frame.index, frame.time, frame.due))
        self._pushed, self._fed = self._pushed + 1, self._fed + 1
        output = self.stream.push(normalize(views, clip, self.device))
        self._moments.append(time.monotonic())
        yield from self._answers(output)

    def _flush(self) -> Generator[LivePrediction, None, None]:
        if self._pushed:
            yield from self._answers(self.stream.flush())
            self._waiting.clear()

    def _answers(self, output: StreamOutput) -> Generator[LivePrediction, None, None]:
        logits = output.logits if isinstance(output.logits, dict) else {SINGLE_TASK: output.logits}
        as_task_dict = {task: self.model.probabilities(rows[0]).cpu() for task, rows in logits.items()}  # (m, classes)
        for place, number in enumerate(output.indices):
            while self._waiting[0][0] < number:  # those between two answers
                self._waiting.popleft()
            _, index, moment, due = self._waiting.popleft()
            labels: dict[str, tuple[str, ...]] = {}
            scores: dict[str, tuple[float, ...]] = {}
            for task, rows in as_task_dict.items():
                labels[task], scores[task] = ranked(rows[place], self.names[task])
            best = {task: names[0] if scores[task][0] >= self.threshold else None for task, names in labels.items()}
            lag = time.monotonic() - due
            self._lags.append(lag)
            self._answered += 1
            yield LivePrediction(
                frame=index,
                time=moment,
                label=unwrap_single_task(best),
                labels=unwrap_single_task(labels),
                scores=unwrap_single_task(scores),
                lag_seconds=lag,
            )
