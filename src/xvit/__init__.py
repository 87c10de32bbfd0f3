"""Video transformers at the price of image transformers: space-time mixing attention on any timm ViT."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xvit.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from xvit.inference.predictor import Prediction, Predictor
    from xvit.models.factory import create_model
    from xvit.models.official import load_official
    from xvit.models.xvit import XViT

__all__ = ["Prediction", "Predictor", "XViT", "create_model", "load_official"]

_HOMES = {
    "Prediction": "xvit.inference.predictor",
    "Predictor": "xvit.inference.predictor",
    "XViT": "xvit.models.xvit",
    "create_model": "xvit.models.factory",
    "load_official": "xvit.models.official",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: torch and timm take seconds, which `xvit --help` should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'xvit' has no attribute {name!r}")
