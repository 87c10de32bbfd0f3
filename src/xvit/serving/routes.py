"""The addresses of the service that answer with data."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from xvit.serving import metrics, work
from xvit.serving.errors import ServiceError, error_responses
from xvit.serving.options import (
    ExplainAnswer,
    ExplainOptions,
    ModelsAnswer,
    PredictAnswer,
    PredictOptions,
    SampleEntry,
    TimelineOptions,
)
from xvit.serving.service import Service
from xvit.serving.timelines import JSON_LINES, TimelineResponse
from xvit.utils.version import __version__

_ON_VIDEOS = error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_REFUSED = error_responses(401, 403)
_BYTES = {"type": "string", "format": "binary"}
_VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The video: as the part `file` of a form, whose other parts may be parameters; or by itself.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": _BYTES}, "required": ["file"]},
            },
            "application/octet-stream": {"schema": _BYTES},
            "video/mp4": {"schema": _BYTES},
            "video/webm": {"schema": _BYTES},
        },
    }
}


def make_router(service: Service) -> APIRouter:
    """The routes of `/v1`, of health and of the metrics."""
    router = APIRouter()
    _add_videos(router, service)
    _add_state(router, service)
    return router


def _add_videos(router: APIRouter, service: Service) -> None:
    """The routes that take or give videos."""

    @router.get("/v1/models", response_model=ModelsAnswer, responses=_REFUSED)
    async def models() -> dict[str, Any]:
        """The models, the limits and the version of the service."""
        limits = service.limits
        names = ("upload_bytes", "pixels", "frames", "seconds", "deadline_seconds")
        return {
            "models": [model.describe(default=not i) for i, model in enumerate(service.models.values())],
            "limits": {name: getattr(limits, name) for name in names},
            "version": __version__,
        }

    @router.post(
        "/v1/predict",
        response_model=PredictAnswer,
        response_model_exclude_unset=True,
        responses=_ON_VIDEOS,
        openapi_extra=_VIDEO_BODY,
    )
    async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> JSONResponse:
        """Classify a video."""
        answer, seconds = await service.answer(request, lambda upload: work.predict(service, upload, options))
        return JSONResponse(answer | {"seconds": seconds})

    @router.post(
        "/v1/timeline",
        response_class=Response,
        responses=_ON_VIDEOS | {200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}}},
        openapi_extra=_VIDEO_BODY,
    )
    async def timeline(options: Annotated[TimelineOptions, Query()]) -> Response:
        """Find when each class occurs in a long video: lines of progress, then one with the result."""
        return TimelineResponse(service, options)

    @router.post("/v1/explain", response_model=ExplainAnswer, responses=_ON_VIDEOS, openapi_extra=_VIDEO_BODY)
    async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> JSONResponse:
        """Show which frames and patches of a video decided for a class."""
        answer, _ = await service.answer(request, lambda upload: work.explain(service, upload, options))
        return JSONResponse(answer)

    @router.get("/v1/samples", response_model=list[SampleEntry], responses=_REFUSED)
    async def samples() -> list[dict[str, str]]:
        """A few videos to try; none if no model knows their classes."""
        return [{"name": s.name, "url": f"/v1/samples/{s.name}", "label": s.label} for s in service.samples]

    @router.get(
        "/v1/samples/{name}",
        response_class=Response,
        responses=error_responses(401, 403, 404) | {200: {"content": {"video/mp4": {"schema": _BYTES}}}},
    )
    async def sample(name: str) -> Response:
        """One of these videos."""
        for entry in service.samples:
            if entry.name == name:
                return FileResponse(entry.path, media_type="video/mp4")
        raise ServiceError(404, f"sample {name[:80]!r}: there is none of that name: see /v1/samples")


def _add_state(router: APIRouter, service: Service) -> None:
    """The routes for those who run the service."""

    @router.get("/v2/health/live", responses=error_responses(403))
    @router.get("/health/live", responses=error_responses(403))
    async def live() -> dict[str, bool]:
        """Whether the process works."""
        return {"live": True}

    @router.get("/v2/health/ready", responses=error_responses(403, 503))
    @router.get("/health/ready", responses=error_responses(403, 503))
    async def ready() -> dict[str, bool]:
        """Whether requests are accepted."""
        service.places.check_open()
        return {"ready": True}

    @router.get("/metrics", response_class=Response, responses=_REFUSED | {200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)
