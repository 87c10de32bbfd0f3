"""Video classification with any timm Vision Transformer, by space-time mixing attention (Bulat et al., NeurIPS 2021).

    create_model    a video transformer from an image model
    XViT            the model; XViT.from_pretrained loads a trained one
    Predictor       video files in, predictions out
    Stream          the same model on endless video, frame by frame
    count_macs      multiply-adds of a model
    load_official   the checkpoints of the paper's authors
    push_to_hub     upload a model to the Hugging Face Hub

Subpackages hold the rest: xvit.data, xvit.training, xvit.evaluation, xvit.inference, xvit.timeline, xvit.export, ...
"""

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from xvit.utils.lazy import lazy_names as _lazy_names
from xvit.utils.version import __version__

if _TYPE_CHECKING:
    from xvit.checkpoint.hub import push_to_hub
    from xvit.inference.predictor import Prediction, Predictor
    from xvit.models.factory import create_model
    from xvit.models.official import load_official
    from xvit.models.profiling import count_macs
    from xvit.models.streaming import Stream
    from xvit.models.xvit import XViT

# No library reports its use, unless the user asks for it. ONNX Runtime reads its variable when it is imported: it would
# look up a server, and write an identifier of the device into the home folder.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    _os.environ.setdefault(_name, "1")

__all__ = [
    "Prediction",
    "Predictor",
    "Stream",
    "XViT",
    "__version__",
    "count_macs",
    "create_model",
    "load_official",
    "push_to_hub",
]

_MODULES = {
    "Prediction": "xvit.inference.predictor",
    "Predictor": "xvit.inference.predictor",
    "Stream": "xvit.models.streaming",
    "XViT": "xvit.models.xvit",
    "count_macs": "xvit.models.profiling",
    "create_model": "xvit.models.factory",
    "load_official": "xvit.models.official",
    "push_to_hub": "xvit.checkpoint.hub",
}
__getattr__ = _lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return list(__all__)
