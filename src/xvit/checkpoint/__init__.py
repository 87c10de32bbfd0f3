"""Trained models on disk: directories of weights, settings and a model card, read and written atomically."""

from xvit.checkpoint.format import (
    CheckpointMetadata,
    check_num_layers,
    checkpoint_files,
    preprocessor_config,
    read_metadata,
    read_tensors,
    write_checkpoint,
)
from xvit.checkpoint.hub import find_checkpoint, push_to_hub
from xvit.checkpoint.model_card import model_card
from xvit.utils.checkpoint_path import CARD, CONFIG, EXPORTED, WEIGHTS

__all__ = ["CARD", "CONFIG", "EXPORTED", "WEIGHTS", "CheckpointMetadata", "check_num_layers", "checkpoint_files"]
__all__ += ["find_checkpoint", "model_card", "preprocessor_config", "push_to_hub", "read_metadata", "read_tensors"]
__all__ += ["write_checkpoint"]
