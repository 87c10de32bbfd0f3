"""A recipe: all settings of one run."""

from dataclasses import dataclass, field

from xvit.config.clip import ClipSpec
from xvit.config.data import DataConfig
from xvit.config.model import ModelConfig
from xvit.config.train import EvalConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A recipe: all of one run. recipes/*.yaml hold such files.

    Args:
        model: the video transformer.
        clip: how a video becomes pixel values.
        data: where the videos are.
        train: optimiser and schedule.
        eval: views of the test.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
