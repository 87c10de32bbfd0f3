"""The client for https:// and http://. It follows redirects only to addresses that are allowed themselves.

It connects to no private or local network, such as the address where clouds give out credentials, unless the user has
named the host.

The network address is checked where a socket is made: after names are resolved and redirects followed.
"""

import ipaddress
import socket
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from xvit.utils.addresses import is_allowed, is_named
from xvit.utils.text import hide_secrets

CONNECT_SECONDS, READ_SECONDS = 15.0, 30.0  # to wait for a connection, and for the next bytes

_host_is_named: ContextVar[bool] = ContextVar("host_is_named", default=False)  # that of the request of this task


class RefusedAddressError(OSError):
    """An address, of a redirect or of a network, that the user has not allowed."""


async def open_client(**options: Any) -> aiohttp.ClientSession:
    """The session of `fsspec`'s file system for the web; to be called in its event loop.

    Args:
        options: of `aiohttp.ClientSession`, from fsspec's settings.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(_on_request)
    trace.on_request_redirect.append(_on_redirect)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
    defaults: dict[str, Any] = {
        "timeout": timeout,
        "auto_decompress": False,
        "headers": headers,
        "trace_configs": [trace],
    }
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_make_socket), **(defaults | options))


async def _on_request(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    _enter(params.url)


async def _on_redirect(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    try:
        _enter(params.url.join(URL(params.response.headers.get("Location", ""))))
    except (OSError, ValueError):
        params.response.close()
        raise


def _enter(url: URL) -> None:
    if not is_allowed(str(url)):
        raise RefusedAddressError(f"it leads to {hide_secrets(str(url))}, which is not allowed")
    _host_is_named.set(is_named(str(url)))


def _make_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for (family, type, protocol, name, address); raises `RefusedAddressError` for a private network."""
    family, kind, protocol, _, address = info
    if not _host_is_named.get() and not is_public(address[0]):
        # Without the number: if a host has several, their errors are joined only if they are equal.
        raise RefusedAddressError("its host is in a private or local network, which is reached only if it is named")
    return socket.socket(family=family, type=kind, proto=protocol)


def is_public(host: str) -> bool:
    """Whether the number of a host, such as 192.0.2.1, is one of the public internet."""
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_global and not address.is_multicast
