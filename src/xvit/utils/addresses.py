"""Addresses of videos, such as s3://bucket/clip.mp4, and which of them may be opened: none without the user's leave.

The decoder itself opens no address. What is allowed holds for this process and those that it starts, as an environment
variable, so that no way through the library can forget to ask.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from xvit.utils.errors import XViTError, did_you_mean
from xvit.utils.files import check_folder
from xvit.utils.text import hide_secrets

# The library that opens addresses of each scheme, by fsspec.
SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub", "https": "aiohttp", "http": "aiohttp"}
WEB = ("https", "http")
VARIABLE = "XVIT_ALLOW_REMOTE"

_PORTS = {"https": 443, "http": 80}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)[^\x00-\x1f]*")
_ENTRY = re.compile(r"([A-Za-z0-9]+)(://[^\s/?#@\\]+)?/?")

_Place = tuple[str, str, int | None]  # scheme, host or bucket, port


def is_address(path: object) -> bool:
    """Whether a path begins with a scheme such as s3://."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def is_web_address(path: str) -> bool:
    """Whether a path begins with https:// or http://."""
    return is_address(path) and path.partition(":")[0].lower() in WEB


def split_allowed(allowed: str | Iterable[str]) -> tuple[str, ...]:
    """The entries of `allow_remote`, from a list or from text that separates them by commas.

    Raises:
        XViTError: an entry that is no known scheme, or an address with more than a scheme and a host or bucket.
    """
    words = allowed.split(",") if isinstance(allowed, str) else allowed
    entries = [word.strip() for word in words if word.strip()]
    for entry in entries:
        match, shown = _ENTRY.fullmatch(entry), hide_secrets(entry)
        scheme = match[1] if match else entry.partition(":")[0]
        if scheme not in SCHEMES:
            expected = f"expected {', '.join(SCHEMES)}, or one of these and a bucket or host, such as s3://bucket"
            raise XViTError(f"allow_remote={shown!r}: {expected}.{did_you_mean(scheme, SCHEMES)}")
        if not match:
            raise XViTError(f"allow_remote={shown!r}: expected {scheme}, or {scheme}:// and a bucket or host alone")
    return tuple(entries)


def allow_remote(*allowed: str) -> None:
    """Let this process, and the processes that it starts, read videos at some addresses.

    Args:
        allowed: schemes (s3, gs, az, hf, https, http), or a scheme with a bucket or host (s3://bucket,
            https://videos.example.org) for that place only. Private and local hosts, such as http://127.0.0.1:8000, are
            reached only if they are named.

    Raises:
        XViTError: an unknown scheme, or an address with more than a host or bucket.
    """
    before = split_allowed(os.environ.get(VARIABLE, ""))
    entries = dict.fromkeys((*before, *(entry for text in allowed for entry in split_allowed(text))))
    if entries:
        os.environ[VARIABLE] = ",".join(entries)


@contextmanager
def allowed_only_inside() -> Iterator[None]:
    """Forget at the end what `allow_remote` allows inside: a program may run one command after another."""
    before = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def check_address(address: str) -> None:
    """Raise `XViTError` unless the address may be opened."""
    if is_allowed(address):
        return
    scheme, shown = address.partition(":")[0].lower(), hide_secrets(address)
    if scheme not in SCHEMES:
        expected = f"expected a path, or one of {', '.join(SCHEMES)}; for live streams, use `xvit stream`"
        raise XViTError(f"{shown}: {scheme}:// is not supported: {expected}")
    if _find_place(address) is None:
        raise XViTError(f"{shown}: not a valid address")
    advice = f"to allow it, give --allow-remote {scheme} (for data sets and in recipes: data.allow_remote: {scheme})"
    raise XViTError(f"{shown}: addresses of {scheme}:// are not opened unless they are allowed: {advice}")


def check_video_root(path: str | Path) -> None:
    """Raise `XViTError` unless there is such a folder, or it is an address that is allowed."""
    if is_address(path):
        check_address(str(path))
    else:
        check_folder(path)


def is_allowed(address: str) -> bool:
    """Whether the user has allowed the scheme of an address, or its host or bucket."""
    place, (schemes, places) = _find_place(address), _parse_allowed(os.environ.get(VARIABLE, ""))
    return place is not None and (place[0] in schemes or place in places)


def is_named(address: str) -> bool:
    """Whether the user has allowed the host or bucket of an address by its name."""
    return _find_place(address) in _parse_allowed(os.environ.get(VARIABLE, ""))[1]


def name_place(address: str) -> str:
    """The scheme and the bucket or host of an address, without user name and password."""
    match = _ORIGIN.match(address)
    scheme, _, place = (match[1] if match else address).partition("://")
    return f"{scheme.lower()}://{place.rpartition('@')[2]}"


def _find_place(address: str) -> _Place | None:
    """None if there is no host or bucket, or if libraries may read the address in different ways."""
    match = _ORIGIN.fullmatch(address)
    return _parse_origin(match[1]) if match else None


@lru_cache(maxsize=4096)  # lists have millions of addresses, but few buckets
def _parse_origin(origin: str) -> _Place | None:
    if re.search(r"[\s\\]", origin):
        return None
    try:
        parts = urlsplit(origin)
        if parts.scheme in WEB:
            return (parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]) if parts.hostname else None
    except ValueError:  # brackets, or a port that is no number
        return None
    return (parts.scheme, parts.netloc, None) if parts.netloc else None


@lru_cache(maxsize=16)
def _parse_allowed(text: str) -> tuple[frozenset[str], frozenset[_Place | None]]:
    """The schemes, and the places that are allowed by name."""
    entries = split_allowed(text)
    places = (_find_place(entry.rstrip("/")) for entry in entries if is_address(entry))
    return frozenset(entries), frozenset(place for place in places if place is not None)
