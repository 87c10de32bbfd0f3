"""Predictions for video files (`Predictor`) and for live sources (`LivePredictor`)."""

from xvit.inference.live import LivePrediction, LivePredictor, StreamStats
from xvit.inference.predictor import Prediction, Predictor, open_model

__all__ = ["LivePrediction", "LivePredictor", "Prediction", "Predictor", "StreamStats", "open_model"]
