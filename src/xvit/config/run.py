"""A recipe: all settings of one run."""

from dataclasses import dataclass, field

from xvit.config.augment import AugmentConfig
from xvit.config.clip import ClipSpec
from xvit.config.data import DataConfig
from xvit.config.init import InitConfig
from xvit.config.model import ModelConfig
from xvit.config.train import EvalConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A recipe: all settings of one run, as in recipes/*.yaml.

    Args:
        model: the video transformer.
        init: where its initial weights come from.
        clip: how a video becomes a clip.
        data: where the videos are.
        augment: how training varies its clips.
        train: optimizer and schedule.
        eval: views of the test.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
