"""Receiving the video of a request: as a stream, into a private folder, within the limits, removed whatever happens.

multipart/form-data                  one part `file`, and parameters in the other parts
video/*, application/octet-stream    the video itself
"""

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from xvit.inference.inputs import UNNAMED
from xvit.serving.errors import ServiceError
from xvit.serving.settings import MB, Limits

MAX_FIELDS, MAX_FIELD_BYTES = 16, 1000
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass
class Upload:
    """A video that was received.

    Args:
        path: where it is, until the block of `receive` ends.
        fields: the other parts of the form.
        size: bytes of the whole body.
    """

    path: Path
    fields: dict[str, str] = field(default_factory=dict)
    size: int = 0


@asynccontextmanager
async def receive(
    request: Request, folder: Path, limits: Limits, on_bytes: Callable[[int], object]
) -> AsyncIterator[Upload]:
    """Receive the body of a request into a folder of its own, which is removed at the end of the block.

    `on_bytes` is called with the size of each piece.

    Raises:
        ServiceError: 413, before or while the body is received; 415 for another type; 400 for a body that is none of
            its type; 408 if it does not arrive in time; 503 if the disk is full.
        ClientDisconnect: the client is gone.
    """
    kind, options = _content_type(request)
    _check_announced(request, limits)
    with _disk_errors(), tempfile.TemporaryDirectory(dir=folder) as own:
        upload = Upload(Path(own, UNNAMED))
        with open(upload.path, "wb") as file:
            sink = _Form(options, file) if kind == b"multipart/form-data" else _Raw(file)
            try:
                async with asyncio.timeout(limits.upload_seconds):
                    async for chunk in request.stream():
                        upload.size += len(chunk)
                        on_bytes(len(chunk))
                        if upload.size > limits.upload_bytes:
                            raise _too_large(limits)
                        sink.write(chunk)
            except TimeoutError:
                text = f"the body did not arrive within {limits.upload_seconds:g} s: send it faster, or a smaller one"
                raise ServiceError(408, text) from None
            upload.fields = sink.finish()
        yield upload


def _content_type(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    raw = kind.startswith(b"video/") or kind == b"application/octet-stream"
    if not raw and kind != b"multipart/form-data":
        expected = "multipart/form-data with a file field, or the bytes of a video as video/* or "
        raise ServiceError(415, f"Content-Type: expected {expected}application/octet-stream")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServiceError(415, "Content-Encoding: send the video as it is, without compression")
    if kind == b"multipart/form-data" and not options.get(b"boundary"):
        raise ServiceError(400, "Content-Type: multipart/form-data without a boundary")
    return kind, options


def _check_announced(request: Request, limits: Limits) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.upload_bytes:
        raise _too_large(limits)


def _too_large(limits: Limits) -> ServiceError:
    return ServiceError(
        413, f"the body is larger than {limits.upload_bytes / MB:g} MB: send a smaller or shorter video"
    )


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ServiceError(503, "the server's disk is full: try again later", {"Retry-After": "60"}) from None


class _Raw:
    """The body is the video."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)

    def finish(self) -> dict[str, str]:
        return {}


class _Form:
    """The body is a form with the video in its part `file`."""

    def __init__(self, options: dict[bytes, bytes], file: BinaryIO) -> None:
        self.file, self.fields, self.num_files = file, dict[str, str](), 0
        self._has_file_name = False
        self._name, self._header, self._value = "", b"", b""
        self._data: bytearray | None = None  # of a parameter; None in the part `file`
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._start_data,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        with _form_errors():
            self._parser = MultipartParser(options[b"boundary"], callbacks)

    def write(self, chunk: bytes) -> None:
        with _form_errors():
            self._parser.write(chunk)

    def finish(self) -> dict[str, str]:
        with _form_errors():
            self._parser.finalize()
        if not self._ended:
            raise ServiceError(400, "the form ends before its last boundary: send all of it")
        if self.num_files != 1:
            raise ServiceError(422, f"{self.num_files} fields named file: send exactly one, the video")
        return self.fields

    def _begin(self) -> None:
        self._name, self._has_file_name = "", False

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._has_file_name = b"filename" in options
        self._header, self._value = b"", b""

    def _start_data(self) -> None:
        if self._name == "file":
            self.num_files += 1
            self._data = None
            if self.num_files > 1:
                raise ServiceError(422, "several fields named file: send one video per request")
        elif self._has_file_name:
            raise ServiceError(422, f"{self._name[:80]}: send the video in the field file, as with curl -F file=@VIDEO")
        else:
            self._data = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._data is None:
            self.file.write(data[start:end])
            return
        self._data += data[start:end]
        if len(self._data) > MAX_FIELD_BYTES:
            raise ServiceError(422, f"{self._name[:80]}: expected at most {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        if self._data is not None:
            if len(self.fields) >= MAX_FIELDS:
                raise ServiceError(422, f"expected at most {MAX_FIELDS} fields beside the file")
            self.fields[self._name] = self._data.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True


@contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise ServiceError(400, f"the body is not the form that its Content-Type announces: {error}") from None
