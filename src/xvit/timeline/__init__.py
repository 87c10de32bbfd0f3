"""Temporal segmentation of long videos: scores over time, segments, their metrics against the ground truth, files."""

from xvit.timeline.metrics import SegmentMetrics, VideoSegments, compute_metrics
from xvit.timeline.scoring import ScoreTimeline, iterate_scores, score_video
from xvit.timeline.segments import Segment, find_segments
from xvit.timeline.writers import read_ground_truth, to_csv, to_json, to_srt

__all__ = ["ScoreTimeline", "Segment", "SegmentMetrics", "VideoSegments"]
__all__ += ["compute_metrics", "find_segments", "iterate_scores", "read_ground_truth", "score_video"]
__all__ += ["to_csv", "to_json", "to_srt"]
