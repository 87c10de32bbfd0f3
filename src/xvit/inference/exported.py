"""Scores of clips from an exported model, in NumPy: the runtimes of exported models need no torch."""

import numpy as np

from xvit.config import as_task_dict, unwrap_single_task
from xvit.data.arrays import normalize
from xvit.export.runtime import ExportedModel


def predict_probabilities(
    model: ExportedModel, pixels: np.ndarray, max_clips: int
) -> np.ndarray | dict[str, np.ndarray]:
    """Class probabilities of clips, averaged over their views; see `Predictor.predict_probabilities`.

    Args:
        model: runs on at most `max_clips` clips at a time.
        pixels: (B, V, T, C, S, S) uint8.
        max_clips: the number of clips.

    Returns:
        (B, classes) float32; a dict of them for several tasks.
    """
    B, V = pixels.shape[:2]
    clips = pixels.reshape(B * V, *pixels.shape[2:])
    chunks = [clips[start : start + max_clips] for start in range(0, max(B * V, 1), max_clips)]
    outputs = [as_task_dict(model(_to_input(chunk, model))) for chunk in chunks]
    probabilities = {
        task: model.probabilities(np.concatenate([chunk[task] for chunk in outputs])) for task in model.config.tasks
    }
    return unwrap_single_task({task: x.reshape(B, V, -1).mean(axis=1) for task, x in probabilities.items()})


def _to_input(clips: np.ndarray, model: ExportedModel) -> np.ndarray:
    """The program's input for clips (n, T, C, S, S) in uint8; as raw frames, resizing does not change them."""
    return clips.transpose(0, 1, 3, 4, 2) if model.manifest.raw_frames else normalize(clips, model.clip_spec)
