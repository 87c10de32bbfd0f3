"""Export of a trained model to ONNX, OpenVINO or torch.export, and running the result.

Modules: `exporter` exports a model, `programs` builds the programs, `parity` compares them with the model, and
`runtime` runs them.
"""

from xvit.export.exporter import export_model
from xvit.export.parity import ParityLimits, ParityReport
from xvit.export.runtime import ExportedModel, ExportManifest

__all__ = ["ExportManifest", "ExportedModel", "ParityLimits", "ParityReport", "export_model"]
