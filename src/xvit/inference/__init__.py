"""Predictions for video files (`Predictor`) and for live sources (`LivePredictor`).

Exported models run without torch, so nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from xvit.utils.lazy import lazy_names

if TYPE_CHECKING:
    from xvit.inference.live import LivePrediction, LivePredictor, StreamStats
    from xvit.inference.predictor import Prediction, Predictor, open_model

__all__ = ["LivePrediction", "LivePredictor", "Prediction", "Predictor", "StreamStats", "open_model"]
__getattr__ = lazy_names(
    __name__,
    dict.fromkeys(["LivePrediction", "LivePredictor", "StreamStats"], "xvit.inference.live")
    | dict.fromkeys(["Prediction", "Predictor", "open_model"], "xvit.inference.predictor"),
)
