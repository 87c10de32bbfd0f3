"""Testing a model on labelled videos: every video counted once, the unreadable ones named.

samples ─▶ score ─▶ ScoredVideos ─▶ measure ─▶ Evaluation, MultiLabelEvaluation      what `evaluate` does
                      └─────▶ write_submission                                for test sets without labels too
"""

from xvit.evaluation.multi_label import MultiLabelEvaluation as MultiLabelEvaluation
from xvit.evaluation.multi_view import ScoredVideos as ScoredVideos
from xvit.evaluation.multi_view import match_labels as match_labels
from xvit.evaluation.multi_view import score as score
from xvit.evaluation.results import Evaluation as Evaluation
from xvit.evaluation.results import TaskResult as TaskResult
from xvit.evaluation.results import evaluate as evaluate
from xvit.evaluation.results import measure as measure
from xvit.evaluation.results import run_metadata as run_metadata
