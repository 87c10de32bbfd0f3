"""Who may use the service, and what browsers may do with its answers. Plain ASGI, so that bodies stay streams.

Host      an IP address, localhost or a named host: what DNS rebinding needs is a name of its own
Origin    of a WebSocket or a request that may change something: the service itself, or a named origin
token     for all but the pages and the health routes
"""

import asyncio
import hmac
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xvit.serving.errors import error_response
from xvit.serving.settings import Access, is_address

SUBPROTOCOL, _BEARER = "xvit", "bearer."
_PUBLIC = ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
_PUBLIC_FOLDER = "/page/"
_DRAIN_BYTES, _DRAIN_SECONDS = 2**19, 1.0  # of a body that was refused
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_CSP = {
    "default-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _CSP.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


class Security:
    """Refuses requests of others, and adds headers to all answers.

    Args:
        app: the application.
        access: who may use it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access
        self._hosts = {"localhost", *(host.lower().rstrip(".") for host in access.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(headers, receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                answer.setdefault("Cache-Control", "no-store")
                if body.is_pending:  # what else the client sends would be read and dropped
                    answer["Connection"] = "close"
            if message["type"] == "http.response.body" and body.is_pending and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        if refusal := self._refuse(scope, headers):
            status, text = refusal
            challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            await error_response(status, text, challenge)(scope, body.receive, send_with_headers)
            return
        await self.app(scope, body.receive, send_with_headers)

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """The status and the message of a refusal."""
        host = headers.get("host", "")
        if not self._knows(host):
            return 403, f"host {host[:80]!r}: not a name of this service; start it with --allow-host to accept it"
        origin = headers.get("origin")
        checked = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if checked and origin is not None and not self._allows(origin, host):
            return 403, f"origin {origin[:80]!r}: pages of other origins may not use this service"
        path = scope["path"]
        public = path in _PUBLIC or path.startswith(_PUBLIC_FOLDER)
        if self.access.token is not None and not public and not _has_token(scope, headers, self.access.token):
            return 401, "the token is missing or wrong: send the header Authorization: Bearer TOKEN"
        return None

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.rstrip(".") in self._hosts or is_address(name)

    def _allows(self, origin: str, host: str) -> bool:
        """Whether an origin is the service itself, whatever the scheme that a proxy shows, or a named one."""
        return origin in self.access.origins or origin.partition("://")[2].lower() == host.lower()


class _Body:
    """The body of a request, and whether some of it was not received."""

    def __init__(self, headers: Headers, receive: Receive) -> None:
        self._receive = receive
        self._is_held_back = "expect" in headers  # until it is asked for
        self.is_pending = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.is_pending = False
        return message

    async def drain(self) -> None:
        """Receive and drop what is on its way, up to a limit.

        Closing a connection whose data was not read resets it, and many clients then lose the answer.
        """
        if self._is_held_back:
            return
        received = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self.is_pending and received < _DRAIN_BYTES:
                    message = await self.receive()
                    if message["type"] != "http.request":
                        return
                    received += len(message.get("body", b""))


def _has_token(scope: Scope, headers: Headers, token: str) -> bool:
    """Whether a request brings the token; browsers cannot set headers of a WebSocket, but its subprotocols."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    given = [value] if scheme.lower() == "bearer" else []
    if scope["type"] == "websocket":
        protocols: Iterable[str] = scope.get("subprotocols", [])
        given += [name.removeprefix(_BEARER) for name in protocols if name.startswith(_BEARER)]
    # All of them, so that the time tells nothing.
    return any([hmac.compare_digest(value.strip().encode(), token.encode()) for value in given])
