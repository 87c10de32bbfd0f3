"""Evaluating a model on labelled videos, and scoring videos for a challenge.

samples ─▶ score_videos ─▶ ScoredVideos ─▶ compute_metrics ─▶ Evaluation or MultiLabelEvaluation      (`evaluate`)
                               ├─────────▶ write_submission                         also for videos without labels
                               └─────────▶ calibrate                                ─▶ CalibrationResult

Each video counts once. Videos that cannot be read are listed, never replaced; those that were read with warnings, such
as damaged frames, are listed too.
"""

from xvit.evaluation.calibration import CalibrationResult, Reliability, calibrate
from xvit.evaluation.metrics import (
    Evaluation,
    SampleResult,
    TaskResult,
    compute_metrics,
    evaluate,
    run_metadata,
    wilson_interval,
)
from xvit.evaluation.multi_label import MultiLabelEvaluation
from xvit.evaluation.scoring import ScoredVideos, VideoResults, describe_views, match_labels, score_videos
from xvit.evaluation.submissions import write_submission

__all__ = ["CalibrationResult", "Evaluation", "MultiLabelEvaluation", "Reliability", "SampleResult", "ScoredVideos"]
__all__ += ["TaskResult", "VideoResults", "calibrate", "compute_metrics", "describe_views", "evaluate", "match_labels"]
__all__ += ["run_metadata", "score_videos", "wilson_interval", "write_submission"]
