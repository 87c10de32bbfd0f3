"""Export of a trained model to ONNX, OpenVINO or torch.export, and running the result.

Modules: `exporter` exports a model, `programs` builds the programs, `parity` compares them with the model, and
`runtime` runs them. The public names are imported at first use: `runtime` must not import the exporter.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvit.export.exporter import export_model
    from xvit.export.parity import ParityLimits, ParityReport
    from xvit.export.runtime import ExportedModel, ExportManifest

__all__ = ["ExportManifest", "ExportedModel", "ParityLimits", "ParityReport", "export_model"]

_MODULES = {
    "ExportManifest": "xvit.export.runtime",
    "ExportedModel": "xvit.export.runtime",
    "ParityLimits": "xvit.export.parity",
    "ParityReport": "xvit.export.parity",
    "export_model": "xvit.export.exporter",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'xvit.export' has no attribute {name!r}")
