"""Every setting of xvit, as frozen dataclasses that check themselves.

A recipe file holds one `RunConfig`; a checkpoint's config.json holds its `ModelConfig` and `ClipSpec`.
"""

from xvit.config.clip import ClipSpec
from xvit.config.data import DataConfig
from xvit.config.io import from_dict, read_yaml, to_dict
from xvit.config.model import ATTENTIONS, Attention, ModelConfig
from xvit.config.run import RunConfig
from xvit.config.tasks import Labels, by_task, labels_by_task, plain
from xvit.config.train import EvalConfig, TrainConfig

__all__ = [
    "ATTENTIONS",
    "Attention",
    "ClipSpec",
    "DataConfig",
    "EvalConfig",
    "Labels",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "by_task",
    "from_dict",
    "labels_by_task",
    "plain",
    "read_yaml",
    "to_dict",
]
