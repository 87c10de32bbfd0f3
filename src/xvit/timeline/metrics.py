"""Metrics of segments against the ground truth: frame accuracy, segmental F1, mean average precision.

IoU: the time that two segments share, divided by the time that at least one of them covers.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xvit.timeline.segments import Segment
from xvit.utils.errors import XViTError

IOU_THRESHOLDS = (0.1, 0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class VideoSegments:
    """The segments of a video: each list in order, without overlap.

    Args:
        ground_truth: the true ones.
        predicted: those found, with scores.
        duration: seconds of the video.
    """

    ground_truth: Sequence[Segment]
    predicted: Sequence[Segment]
    duration: float


@dataclass(frozen=True, kw_only=True)
class SegmentMetrics:
    """Metrics over some videos.

    Args:
        videos: their number.
        frame_accuracy: share of the time with the correct class; background counts as a class.
        f1: segmental F1 at each IoU threshold.
        mean_ap: mean average precision at each IoU threshold.
    """

    videos: int
    frame_accuracy: float
    f1: dict[float, float] = field(default_factory=dict)
    mean_ap: dict[float, float] = field(default_factory=dict)


def compute_metrics(videos: Sequence[VideoSegments]) -> SegmentMetrics:
    """Compute all metrics over some videos, or raise `XViTError` if there are none."""
    if not videos:
        raise XViTError("no videos to compute metrics of: expected at least 1")
    correct = sum(frame_accuracy(video) * video.duration for video in videos)
    return SegmentMetrics(
        videos=len(videos),
        frame_accuracy=correct / sum(video.duration for video in videos),
        f1={iou: segment_f1(videos, iou) for iou in IOU_THRESHOLDS},
        mean_ap={iou: mean_average_precision(videos, iou) for iou in IOU_THRESHOLDS},
    )


def frame_accuracy(video: VideoSegments) -> float:
    """Share of the video's time with the correct class: the limit of counting frames at an ever higher frame rate."""
    bounds = [bound for s in (*video.ground_truth, *video.predicted) for bound in (s.start, s.end)]
    edges = np.unique(np.clip([0.0, *bounds, video.duration], 0, video.duration))
    middles = (edges[:-1] + edges[1:]) / 2
    ground_truth, predicted = (_labels_at(segments, middles) for segments in (video.ground_truth, video.predicted))
    return float(np.diff(edges)[ground_truth == predicted].sum() / video.duration)


def segment_f1(videos: Sequence[VideoSegments], iou: float) -> float:
    """F1 of segments (Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection", 2017).

    In temporal order, each predicted segment is compared with the true segment of its class that it overlaps most. It
    is correct if their IoU is at least `iou` and no earlier prediction was matched to the same true segment. The
    result is 0 if no segment is correct, and 1 if there are neither true nor predicted segments.
    """
    hits = predicted = actual = 0
    for video in videos:
        matched: set[int] = set()
        for segment in video.predicted:
            overlaps = [_iou(segment, true) if true.label == segment.label else 0.0 for true in video.ground_truth]
            if overlaps and max(overlaps) >= iou:
                matched.add(overlaps.index(max(overlaps)))
        hits += len(matched)
        predicted, actual = predicted + len(video.predicted), actual + len(video.ground_truth)
    return 2 * hits / (predicted + actual) if predicted + actual else 1.0


def mean_average_precision(videos: Sequence[VideoSegments], iou: float) -> float:
    """Mean over the true classes of the average precision, as in ActivityNet's detection task; 0 without true segments.

    The predicted segments of a class in all videos are ranked by descending score. Each is matched to the true segment
    that it overlaps most among the unmatched ones of its video, if their IoU is at least `iou`. Precision is made
    monotone before it is averaged over recall.
    """
    by_class: dict[str, list[tuple[int, Segment]]] = defaultdict(list)  # predictions, with the index of the video
    for index, video in enumerate(videos):
        for segment in video.predicted:
            by_class[segment.label].append((index, segment))
    precisions = []
    for label in sorted({segment.label for video in videos for segment in video.ground_truth}):
        unmatched = {
            index: [segment for segment in video.ground_truth if segment.label == label]
            for index, video in enumerate(videos)
        }
        total = sum(map(len, unmatched.values()))
        correct = []
        for index, segment in sorted(by_class[label], key=lambda ranked: -(ranked[1].score or 0.0)):
            best = max(unmatched[index], key=lambda true: _iou(segment, true), default=None)
            correct.append(best is not None and _iou(segment, best) >= iou)
            if best is not None and correct[-1]:
                unmatched[index].remove(best)
        precisions.append(_average_precision(correct, total))
    return float(np.mean(precisions)) if precisions else 0.0


def _average_precision(correct: list[bool], total: int) -> float:
    """Area under the precision-recall curve of ranked predictions, with precision made monotone."""
    precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[np.array(correct, dtype=bool)].sum() / total)


def _iou(a: Segment, b: Segment) -> float:
    shared = max(min(a.end, b.end) - max(a.start, b.start), 0.0)
    return shared / (a.end - a.start + b.end - b.start - shared)


def _labels_at(segments: Sequence[Segment], times: np.ndarray) -> np.ndarray:
    """The class at each of `times`; None for background."""
    labels = np.full(len(times), None, dtype=object)
    for segment in segments:
        labels[(segment.start <= times) & (times < segment.end)] = segment.label
    return labels
