"""The readiness and metadata routes of the Open Inference Protocol v2, for tools that look for them.

Its routes of health are beside the service's own, in `routes`. Inference itself goes through `/v1/predict`: a client of
the protocol's tensors would have to decode and sample videos itself.
"""

from typing import Any

from fastapi import APIRouter

from xvit.export.runtime import ExportedModel
from xvit.serving.errors import error_responses
from xvit.serving.models import ServedModel
from xvit.serving.service import Service
from xvit.utils.version import __version__

_PLATFORMS = {"onnx": "onnx_onnxv1", "openvino": "openvino", "torch": "pytorch_export"}


def make_v2_router(service: Service) -> APIRouter:
    """The routes of `/v2`."""
    router = APIRouter(prefix="/v2")
    found = error_responses(401, 403, 404)

    @router.get("", responses=error_responses(401, 403))
    async def metadata() -> dict[str, Any]:
        """Name and version of the server."""
        return {"name": "xvit", "version": __version__, "extensions": []}

    @router.get("/models/{name}", responses=found)
    async def model_metadata(name: str) -> dict[str, Any]:
        """Inputs and outputs of a model."""
        return _describe(service.find(name))

    @router.get("/models/{name}/ready", responses=found | error_responses(503))
    async def model_ready(name: str) -> dict[str, Any]:
        """Whether a model accepts requests."""
        service.find(name)
        service.places.check_open()
        return {"name": name, "ready": True}

    return router


def _describe(served: ServedModel) -> dict[str, Any]:
    model = served.model
    platform = _PLATFORMS[model.manifest.format] if isinstance(model, ExportedModel) else "pytorch"
    outputs = []
    for task, names in served.tasks.items():
        suffix = f"_{task}" if task else ""
        outputs += [
            {"name": f"labels{suffix}", "datatype": "BYTES", "shape": [len(names)]},
            {"name": f"scores{suffix}", "datatype": "FP32", "shape": [len(names)]},
        ]
    return {
        "name": served.name,
        "versions": [served.hash],
        "platform": platform,
        "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1]}],
        "outputs": outputs,
    }
