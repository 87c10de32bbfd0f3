"""Video transformers at the price of image transformers: space-time mixing attention on any timm ViT."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvit.inference import Prediction, Predictor
    from xvit.models.xvit import XViT, create_model
    from xvit.weights.official import load_official

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "XViT", "create_model", "load_official"]

_HOMES = {
    "Prediction": "xvit.inference",
    "Predictor": "xvit.inference",
    "XViT": "xvit.models.xvit",
    "create_model": "xvit.models.xvit",
    "load_official": "xvit.weights.official",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: torch and timm take seconds, which `xvit --help` should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'xvit' has no attribute {name!r}")
