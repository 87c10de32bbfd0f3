"""The page at `/`, its files, and `/docs`: all from this package, nothing from other hosts."""

from contextlib import suppress
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response

from xvit.serving.errors import ServiceError

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
}
_CACHE = {"Cache-Control": "no-cache"}  # the browser asks whether they have changed


def make_site(app: FastAPI) -> APIRouter:
    """The routes of the pages, which are no part of the API."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return _file("index.html")

    @router.get("/page/{path:path}")
    async def page_file(path: str) -> Response:
        return _file(path)

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(render_docs(app.openapi()), headers=_CACHE)

    return router


def _file(path: str) -> Response:
    """A file of the folder `page` of this package."""
    kind = _TYPES.get(path.rpartition(".")[2])
    parts = path.split("/")
    if kind is not None and all(part and part[0] != "." and "\\" not in part and "\0" not in part for part in parts):
        file = files(__package__).joinpath("page", *parts)
        with suppress(OSError):  # no such file, or a name that is too long for one
            return Response(file.read_bytes(), media_type=kind, headers=_CACHE)
    raise ServiceError(404, "no such page: see /docs")


def render_docs(schema: dict[str, Any]) -> str:
    """A page that lists the routes of an OpenAPI document."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            rows.append(f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>")
            rows.append(f"<p>{escape(route.get('description', ''))}</p>")
            rows += _render_parameters(route)
            rows.append("<table><thead><tr><th>status</th><th>meaning</th></tr></thead><tbody>")
            for status, answer in sorted(route["responses"].items()):
                types = ", ".join(answer.get("content", {}))
                rows.append(
                    f"<tr><td>{escape(status)}</td><td>{escape(answer['description'])} {escape(types)}</td></tr>"
                )
            rows.append("</tbody></table>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>xvit: API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/page/style.css"></head><body><main>'
        f"<h1>xvit {escape(schema['info']['version'])}: API</h1>"
        '<p><a href="/">The page</a>, <a href="/openapi.json">openapi.json</a>. '
        "Live streams: a WebSocket at <code>/v1/stream</code>.</p>"
        f"{''.join(rows)}</main></body></html>"
    )


def _render_parameters(route: dict[str, Any]) -> list[str]:
    rows = [
        f"<tr><td><code>{escape(parameter['name'])}</code></td>"
        f"<td>{escape(parameter.get('description') or parameter['schema'].get('description', ''))}</td>"
        f"<td>{escape(str(parameter['schema'].get('default', '')))}</td></tr>"
        for parameter in route.get("parameters", [])
    ]
    if body := route.get("requestBody"):
        rows.append(f"<tr><td>body</td><td>{escape(body['description'])}</td><td></td></tr>")
    if not rows:
        return []
    head = "<table><thead><tr><th>parameter</th><th>meaning</th><th>default</th></tr></thead><tbody>"
    return [head, *rows, "</tbody></table>"]
