"""What live and long videos need of a model, in NumPy: views of frames, streams, and scores of clips.

    frames (n, H, W, C) ──▶ view_function ──▶ views (n, C, S, S) ──▶ FrameStream.push, or predict_clips ──▶ scores

Exported models need no torch for it: it is imported only for others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from xvit.data import arrays
from xvit.export.runtime import ExportedModel
from xvit.inference import exported
from xvit.inference.exported import ExportedStream
from xvit.inference.frame_stream import ClipScores, FrameStream
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.models.xvit import XViT


def open_stream(
    model: "XViT | ExportedModel", *, predict_every: int = 1, unchanged_threshold: float | None = None
) -> FrameStream:
    """A stream of a trained model (`xvit.models.streaming.Stream`, for the arguments), or of an exported step.

    Raises:
        XViTError: a model that cannot be streamed, or not with `unchanged_threshold`, as exported ones.
    """
    if isinstance(model, ExportedModel):
        if unchanged_threshold is not None:
            raise XViTError(
                f"unchanged_threshold={unchanged_threshold:g}: an exported step computes all patches; use the "
                "checkpoint that it was exported from"
            )
        return ExportedStream(model, predict_every=predict_every)
    from xvit.inference.trained import TrainedStream

    return TrainedStream(model, predict_every=predict_every, unchanged_threshold=unchanged_threshold)


def view_function(model: "XViT | ExportedModel") -> Callable[[np.ndarray], np.ndarray]:
    """The function from frames (n, H, W, C), uint8, to the centre views (n, C, S, S), uint8, that the model sees."""
    if isinstance(model, ExportedModel):
        return lambda frames: arrays.eval_views(frames, model.clip_spec)[0]
    from xvit.data.transforms import as_tensor, eval_views

    return lambda frames: eval_views(as_tensor(frames), model.clip_spec)[0].contiguous().numpy()


def predict_clips(model: "XViT | ExportedModel", clips: np.ndarray) -> ClipScores:
    """The scores of clips of views (B, T, C, S, S), uint8; all at once."""
    pixels = clips[:, None]  # (B, 1, T, C, S, S)
    if isinstance(model, ExportedModel):
        return exported.predict_scores(model, pixels, len(clips))
    import torch

    from xvit.inference.trained import predict_scores

    scores, margins = predict_scores(model, torch.from_numpy(pixels), len(clips))
    return ClipScores({task: x.cpu().numpy() for task, x in scores.items()}, margins)
