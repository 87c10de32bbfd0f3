"""Predictions, features or checks of many videos, as Parquet files: on one machine or many, going on after any stop.

    list of inputs  ──▶  parts of 256  ──▶  runner: this process, or Ray actors  ──▶  parts/00000.parquet, ...

inputs    the list of inputs
output    the folder of parts, each written whole, and `job.json`, which says what the rows are made of
tasks     what is done with a video: predict, features, check
job       which parts are missing, who computes them, and the summary; in this process
ray       the same on a Ray cluster

Each input has exactly one row, also one that cannot be read. A part is computed as a whole by one worker, in batches
that always hold the same inputs, so rows depend neither on the runner nor on workers, shards and stops.
"""

from xvit.batch.inputs import Inputs, read_inputs
from xvit.batch.job import JobSummary, run_job
from xvit.batch.tasks import CheckTask, FeaturesTask, PredictTask

__all__ = ["CheckTask", "FeaturesTask", "Inputs", "JobSummary", "PredictTask", "read_inputs", "run_job"]
