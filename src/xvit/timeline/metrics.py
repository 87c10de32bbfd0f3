"""How well segments agree with the truth: frame accuracy, segmental F1, mean average precision.

IoU: seconds that two segments share, over seconds that at least one of them covers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xvit.timeline.segments import Segment
from xvit.utils.errors import XViTError

IOUS = (0.1, 0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class VideoSegments:
    """A video's segments and what is right, each in order and without overlap.

    Args:
        truth: the right segments.
        predicted: those found, with scores.
        duration: seconds of the video.
    """

    truth: Sequence[Segment]
    predicted: Sequence[Segment]
    duration: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Agreement over some videos.

    Args:
        videos: how many.
        frame_accuracy: share of the time that has its right class; time of no class counts as a class.
        f1: segmental F1 at each IoU.
        mean_ap: mean average precision at each IoU.
    """

    videos: int
    frame_accuracy: float
    f1: dict[float, float] = field(default_factory=dict)
    mean_ap: dict[float, float] = field(default_factory=dict)


def measure(videos: Sequence[VideoSegments]) -> Metrics:
    """All metrics of some videos together.

    Raises:
        XViTError: no videos.
    """
    if not videos:
        raise XViTError("no videos to measure: expected at least 1")
    right = sum(frame_accuracy(video) * video.duration for video in videos)
    return Metrics(
        videos=len(videos),
        frame_accuracy=right / sum(video.duration for video in videos),
        f1={iou: segment_f1(videos, iou) for iou in IOUS},
        mean_ap={iou: mean_average_precision(videos, iou) for iou in IOUS},
    )


def frame_accuracy(video: VideoSegments) -> float:
    """Share of the video's time at which prediction and truth agree: what counting frames gives at any high rate."""
    ends = [edge for segment in (*video.truth, *video.predicted) for edge in (segment.start, segment.end)]
    edges = np.unique(np.clip([0.0, *ends, video.duration], 0, video.duration))
    middles = (edges[:-1] + edges[1:]) / 2
    truth, predicted = (_labels_at(segments, middles) for segments in (video.truth, video.predicted))
    agree = np.array([a == b for a, b in zip(truth, predicted, strict=True)])
    return float(np.diff(edges)[agree].sum() / video.duration)


def segment_f1(videos: Sequence[VideoSegments], iou: float) -> float:
    """F1 of segments (Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection", 2017).

    In the order of time, each predicted segment is right if the true one of its class that it overlaps most has at
    least this IoU and was not taken by another one before. 0 where there is nothing right; 1 where there is nothing.
    """
    hits = predicted = true = 0
    for video in videos:
        taken: set[int] = set()
        for segment in video.predicted:
            overlaps = [_iou(segment, other) if other.label == segment.label else 0.0 for other in video.truth]
            best = int(np.argmax(overlaps)) if overlaps else 0
            if overlaps and overlaps[best] >= iou and best not in taken:
                taken.add(best)
        hits, predicted, true = hits + len(taken), predicted + len(video.predicted), true + len(video.truth)
    return 2 * hits / (predicted + true) if predicted + true else 1.0


def mean_average_precision(videos: Sequence[VideoSegments], iou: float) -> float:
    """Mean over the true classes of the average precision, as in ActivityNet's detection task; 0 without any.

    A class's segments in all videos, from the highest score down: each takes the true one that it overlaps most of
    those left in its video, if with at least this IoU. Precision is made monotone before it is averaged over recall.
    """
    truth = {(number, place): s for number, video in enumerate(videos) for place, s in enumerate(video.truth)}
    by_class: dict[str, list[tuple[int, Segment]]] = defaultdict(list)
    for number, video in enumerate(videos):
        for segment in video.predicted:
            by_class[segment.label].append((number, segment))
    precisions = []
    for label in sorted({segment.label for segment in truth.values()}):
        left = {key: segment for key, segment in truth.items() if segment.label == label}
        total = len(left)
        right = []
        for number, segment in sorted(by_class[label], key=lambda found: -(found[1].score or 0.0)):
            overlaps = {key: _iou(segment, other) for key, other in left.items() if key[0] == number}
            best = max(overlaps, key=lambda key: overlaps[key], default=None)
            right.append(best is not None and overlaps[best] >= iou)
            if best is not None and right[-1]:
                del left[best]
        precisions.append(_average_precision(right, total))
    return float(np.mean(precisions)) if precisions else 0.0


def _average_precision(right: list[bool], total: int) -> float:
    """Area under the precision over recall of ranked answers, precision as the best at that recall or more."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[np.array(right, dtype=bool)].sum() / total)


def _iou(a: Segment, b: Segment) -> float:
    shared = max(min(a.end, b.end) - max(a.start, b.start), 0.0)
    return shared / (a.end - a.start + b.end - b.start - shared)


def _labels_at(segments: Sequence[Segment], times: np.ndarray) -> list[str | None]:
    """The class at each of `times`; None for none."""
    labels: list[str | None] = [None] * len(times)
    for segment in segments:
        for place in np.flatnonzero((segment.start <= times) & (times < segment.end)):
            labels[place] = segment.label
    return labels
