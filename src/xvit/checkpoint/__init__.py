"""Trained models on disk: directories of weights, settings and a model card, read and written atomically.

format        the settings and the model card; without torch, for programs that run exported models
weights       the tensors
model_card    README.md
hub           downloading from and uploading to the Hugging Face Hub
legacy        directories of earlier versions
"""

from xvit.checkpoint.format import CheckpointMetadata, checkpoint_files, preprocessor_config, read_metadata
from xvit.checkpoint.model_card import model_card
from xvit.utils.checkpoint_path import CARD, CONFIG, EXPORTED, WEIGHTS

__all__ = ["CARD", "CONFIG", "EXPORTED", "WEIGHTS", "CheckpointMetadata", "checkpoint_files", "model_card"]
__all__ += ["preprocessor_config", "read_metadata"]
