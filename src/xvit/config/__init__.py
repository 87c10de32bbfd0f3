"""Every setting of xvit, as frozen dataclasses that check their values.

A recipe file holds one `RunConfig`; a checkpoint's config.json holds its `ModelConfig` and `ClipSpec`, and its
`Calibration`, if it has one.
"""

from xvit.config.augment import AugmentConfig
from xvit.config.calibration import Calibration, energies
from xvit.config.clip import ClipSpec
from xvit.config.data import DataConfig
from xvit.config.init import InitConfig
from xvit.config.io import from_dict, read_config, stored_clip_spec, stored_recipe, to_dict
from xvit.config.model import ATTENTION_SCHEMES, AdvancedConfig, AttentionScheme, ModelConfig, model_config
from xvit.config.nested import describe_change, flatten, merge, unflatten
from xvit.config.recipes import find_recipe
from xvit.config.run import RunConfig
from xvit.config.tasks import SINGLE_TASK, ClassNames, as_task_dict, unwrap_single_task
from xvit.config.train import EvalConfig, TrainConfig
from xvit.config.yaml_file import read_yaml

__all__ = ["ATTENTION_SCHEMES", "SINGLE_TASK", "AdvancedConfig", "AttentionScheme", "AugmentConfig"]
__all__ += [
    "Calibration",
    "ClassNames",
    "ClipSpec",
    "DataConfig",
    "EvalConfig",
    "InitConfig",
    "ModelConfig",
    "RunConfig",
]
__all__ += [
    "TrainConfig",
    "as_task_dict",
    "describe_change",
    "energies",
    "find_recipe",
    "flatten",
    "from_dict",
    "merge",
]
__all__ += ["model_config", "read_config", "read_yaml", "stored_clip_spec", "stored_recipe", "to_dict"]
__all__ += ["unflatten", "unwrap_single_task"]
