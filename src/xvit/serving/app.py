"""The ASGI application of the service."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xvit.serving.errors import CLIENT_GONE, add_error_handlers
from xvit.serving.metrics import Metrics
from xvit.serving.models import ServedModel
from xvit.serving.protocol import make_v2_router
from xvit.serving.routes import make_router
from xvit.serving.security import Security
from xvit.serving.service import Service
from xvit.serving.settings import Access, Limits
from xvit.serving.site import make_site
from xvit.serving.streams import add_streams
from xvit.utils.version import __version__


def create_app(
    models: Mapping[str, ServedModel], *, limits: Limits | None = None, access: Access | None = None
) -> FastAPI:
    """The service as an ASGI application, for example for uvicorn.

    Args:
        models: from `load_models`; the first one is the default. Each belongs to one application.
        limits: of what is accepted.
        access: who may use it; by default everybody who reaches it.

    Returns:
        The application; its `state.service` is the `Service`.
    """
    service = Service(models, limits or Limits())
    access = access or Access()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="xvit", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    add_error_handlers(app)
    app.include_router(make_router(service))
    app.include_router(make_v2_router(service))
    add_streams(app, service)
    app.include_router(make_site(app))
    # The last one added is the outermost.
    app.add_middleware(Security, access=access)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(_Counting, metrics=service.metrics)
    return app


class _Counting:
    """Counts the answers and their times."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), CLIENT_GONE

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # not the path itself, of which there is no end
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - start)
