"""The settings of the service: what it accepts, and from whom."""

import ipaddress
import re
from dataclasses import dataclass

from xvit.data.decode.limits import MAX_PIXELS
from xvit.utils.errors import XViTError, check_range

MB = 2**20
_HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the service accepts at most. All times are in seconds.

    Args:
        upload_bytes: of a request's body.
        upload_seconds: in which a body must have arrived.
        pixels: of a frame.
        frames: of a video.
        seconds: duration of a video.
        decode_seconds: in which the frames of a prediction must be read.
        deadline_seconds: from the end of an upload to the answer, or to the next sign of progress of a timeline.
        queue: requests that are accepted and not answered yet.
        batch_clips: clips in a batch; 1 for no batching.
        batch_wait: for how long a batch waits for more clips while the model is idle.
        views: test views of a video, spatial times temporal.
        streams: live streams at the same time.
        stream_idle_seconds: without a message, after which a live stream is closed.
        message_bytes: of one message of a live stream.
        decode_threads: videos that are decoded at the same time.

    Raises:
        XViTError: a value out of its range.
    """

    upload_bytes: int = 100 * MB
    upload_seconds: float = 120.0
    pixels: int = 4096 * 2304
    frames: int = 200_000
    seconds: float = 3600.0
    decode_seconds: float = 30.0
    deadline_seconds: float = 60.0
    queue: int = 64
    batch_clips: int = 8
    batch_wait: float = 0.005
    views: int = 30
    streams: int = 16
    stream_idle_seconds: float = 60.0
    message_bytes: int = 4 * MB
    decode_threads: int = 2

    def __post_init__(self) -> None:
        for name, low, high in (
            ("upload_bytes", 1, float("inf")),
            ("upload_seconds", 0.1, float("inf")),
            ("pixels", 1, MAX_PIXELS),
            ("frames", 1, float("inf")),
            ("seconds", 0.1, float("inf")),
            ("decode_seconds", 0.1, float("inf")),
            ("deadline_seconds", 0.1, float("inf")),
            ("queue", 1, 10_000),
            ("batch_clips", 1, 1024),
            ("batch_wait", 0, 10),
            ("views", 1, 1000),
            ("streams", 0, 10_000),
            ("stream_idle_seconds", 0.1, float("inf")),
            ("message_bytes", 1024, 2**30),
            ("decode_threads", 1, 256),
        ):
            check_range(name, getattr(self, name), low, high)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the service.

    Args:
        token: what requests must bring; None for nothing.
        hosts: names by which the service is addressed, beside IP addresses and localhost.
        origins: origins of other pages, such as https://example.org, that browsers let use the service (CORS).

    Raises:
        XViTError: an empty token, or one that a header cannot hold; a host or an origin that is none.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The characters of RFC 6750; the token is also part of a WebSocket's subprotocol, which has fewer.
        if self.token is not None and not (self.token and all(c.isascii() and _is_token(c) for c in self.token)):
            raise XViTError(
                "token: expected one or more letters, digits and -._~, such as `openssl rand -hex 16` prints"
            )
        for host in self.hosts:
            if not (_HOST_NAME.fullmatch(host) or is_address(host)):
                raise XViTError(f"host {host!r}: expected a name alone, such as videos.example.org, without a port")
        for origin in self.origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest:
                raise XViTError(f"origin {origin!r}: expected a scheme and a host, such as https://example.org")


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_token(character: str) -> bool:
    return character.isalnum() or character in "-._~"
