"""Export of a trained model to ONNX, OpenVINO or torch.export, and running the result.

Modules: `exporter` exports a model, `programs` builds the programs, `parity` compares them with the model, `manifest`
says how it was done, and `runtime` runs them: without torch, so nothing is imported before it is used.
"""

from typing import TYPE_CHECKING

from xvit.utils.lazy import lazy_names

if TYPE_CHECKING:
    from xvit.export.exporter import export_model
    from xvit.export.manifest import ExportManifest
    from xvit.export.parity import ParityLimits, ParityReport
    from xvit.export.runtime import ExportedModel

__all__ = ["ExportManifest", "ExportedModel", "ParityLimits", "ParityReport", "export_model"]
__getattr__ = lazy_names(
    __name__,
    {"export_model": "xvit.export.exporter"}
    | dict.fromkeys(["ParityLimits", "ParityReport"], "xvit.export.parity")
    | {"ExportManifest": "xvit.export.manifest", "ExportedModel": "xvit.export.runtime"},
)
