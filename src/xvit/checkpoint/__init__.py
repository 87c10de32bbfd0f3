"""Trained models on disk: directories of weights, settings and a model card, read and written atomically."""

from xvit.checkpoint.format import (
    CheckpointMetadata,
    checkpoint_files,
    preprocessor_config,
    read_metadata,
    read_tensors,
    write_checkpoint,
)
from xvit.checkpoint.hub import find_checkpoint, push_to_hub
from xvit.checkpoint.model_card import model_card
from xvit.utils.checkpoint_path import CARD, CONFIG, EXPORTED, WEIGHTS

__all__ = ["CARD", "CONFIG", "EXPORTED", "WEIGHTS", "CheckpointMetadata", "checkpoint_files", "find_checkpoint"]
__all__ += ["model_card", "preprocessor_config", "push_to_hub", "read_metadata", "read_tensors", "write_checkpoint"]
