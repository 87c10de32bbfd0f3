"""Features of videos: extraction to files, reading the files, probing with nearest neighbours and a linear layer."""

from typing import TYPE_CHECKING, Any

from xvit.features.probe import Accuracy, ProbeResult, probe_features
from xvit.features.storage import VideoFeatures, read_features

if TYPE_CHECKING:
    from xvit.features.extract import ExtractionResult, extract_features

__all__ = ["Accuracy", "ExtractionResult", "ProbeResult", "VideoFeatures"]
__all__ += ["extract_features", "probe_features", "read_features"]


def __getattr__(name: str) -> Any:
    if name in ("ExtractionResult", "extract_features"):  # imported at first use: probing needs no torch
        from xvit.features import extract

        return getattr(extract, name)
    raise AttributeError(f"module 'xvit.features' has no attribute {name!r}")
