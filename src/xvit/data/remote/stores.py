"""Files at addresses, opened through fsspec: in blocks if they are of a store, as one stream if they are of the web.

A server of the web may answer a request for a block with an endless body, which a stream can leave.
"""

import os
from typing import Any

from xvit.data.remote.errors import MissingVideoError
from xvit.utils.addresses import SCHEMES, is_web_address
from xvit.utils.errors import VideoError, import_optional

BLOCK_BYTES = 2**23

_file_systems: dict[tuple[int, str], Any] = {}  # by process and scheme; those of a parent must not be closed by a fork


def open_file(address: str) -> Any:
    """A binary file, whose `read(n)` may return fewer than n bytes. `size_of` knows its size.

    Raises:
        VideoError: the address is that of a folder.
        XViTError: the library for this scheme is not installed.
        Exception: of the library.
    """
    file_system = _file_system(address)
    if is_web_address(address):
        return file_system.open(address, "rb", block_size=0, size=1)  # with a size, it sends no other request before
    file = file_system.open(_path(file_system, address), "rb", block_size=BLOCK_BYTES, cache_type="none")
    if file.details.get("type") == "directory":
        file.close()
        raise VideoError(address, "a folder, not a video: give the addresses of its videos, in a list")
    return file


def size_of(file: Any) -> int | None:
    """Bytes of a file of `open_file`; None if the server does not say."""
    response = getattr(file, "r", None)
    size = file.size if response is None else response.content_length
    return size if isinstance(size, int) else None


def fetch_size(address: str) -> int | None:
    """Bytes of the file at an address, without reading it. Raises as `open_file` does."""
    file_system = _file_system(address)
    info = file_system.info(_path(file_system, address))
    if info.get("type") == "directory":
        raise MissingVideoError(address, "a folder, not a video")
    size = info.get("size")
    return size if isinstance(size, int) else None


def ask_again(address: str) -> None:
    """Read one byte, for an error that says more than that of a HEAD request, which has no body."""
    file_system = _file_system(address)
    file_system.cat_file(_path(file_system, address), start=0, end=1)


def _path(file_system: Any, address: str) -> str:
    """The name by which a file system knows a file. fsspec's own parsing would follow chains (zip://...::https://...)."""
    path: str = file_system._strip_protocol(address)
    return path


def _file_system(address: str) -> Any:
    scheme = address.partition(":")[0].lower()
    key = os.getpid(), scheme
    if key not in _file_systems:
        import_optional(SCHEMES[scheme], extra="remote")
        fsspec = import_optional("fsspec", extra="remote")
        options = {"skip_instance_cache": True, "use_listings_cache": False, **_options(scheme, fsspec.config.conf)}
        file_system = fsspec.filesystem(scheme, **options)
        if scheme == "s3":
            file_system.retries = 1
        _file_systems.setdefault(key, file_system)
    return _file_systems[key]


def _options(scheme: str, settings: Any) -> dict[str, Any]:
    """Options that keep a library from trying again itself, uncounted, beside the user's settings of fsspec."""
    if scheme == "s3":
        given = settings.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"retries": {"total_max_attempts": 1}, **given}}
    if scheme in ("https", "http"):
        from xvit.data.remote.web import open_client

        return {"get_client": open_client}
    return {}
